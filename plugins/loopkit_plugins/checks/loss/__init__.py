"""Checks of the loss: what it is computed from, and how."""

CHECKS: tuple[str, ...] = (
    "loopkit_plugins.checks.loss.all_labels_ignored:AllLabelsIgnored",
    "loopkit_plugins.checks.loss.double_softmax:DoubleSoftmax",
    "loopkit_plugins.checks.loss.final_activation_before_loss:FinalActivationBeforeLoss",
    "loopkit_plugins.checks.loss.kl_on_probabilities:KlOnProbabilities",
    "loopkit_plugins.checks.loss.label_shift_wrong:LabelShiftWrong",
    "loopkit_plugins.checks.loss.loss_args_swapped:LossArgsSwapped",
    "loopkit_plugins.checks.loss.loss_broadcast:LossBroadcast",
    "loopkit_plugins.checks.loss.loss_wrong_sign:LossWrongSign",
    "loopkit_plugins.checks.loss.nll_on_raw_scores:NllOnRawScores",
    "loopkit_plugins.checks.loss.pad_mask_wrong:PadMaskWrong",
    "loopkit_plugins.checks.loss.sigmoid_before_bce_logits:SigmoidBeforeBceLogits",
    "loopkit_plugins.checks.loss.softmax_wrong_axis:SoftmaxWrongAxis",
    "loopkit_plugins.checks.loss.target_out_of_range:TargetOutOfRange",
    "loopkit_plugins.checks.loss.unused_loss_term:UnusedLossTerm",
)
