"""What a domain loss can be asked for, and the roles of rows in a batch of two domains: names, without torch."""

WITH_CRITIC = ("dann", "cdan")  # a critic behind gradient reversal
WITH_BANK = ("cdan", "mcc", "bnm")  # these read probabilities: of a bank's captions, or of a classifier's classes
ON_PREDICTIONS = ("mcc", "bnm")  # these are of the predictions alone, wherever the features are
METHODS = ("dann", "cdan", "mmd", "coral", "mcc", "bnm")
SCHEDULES = ("ramp", "constant")  # of the strength
JOINT = "joint"  # the place where all modalities meet: points of one space, or the fusion's features
SOURCE, TARGET, TARGET_TEXT = "source", "target", "target_text"  # the roles of rows
AGAIN = "again"  # the field with a second view of the target's pictures
