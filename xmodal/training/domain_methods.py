"""What a domain loss can be asked for, by name and without torch."""

WITH_CRITIC = ("dann", "cdan")  # a critic behind gradient reversal
WITH_BANK = ("cdan", "mcc", "bnm")  # these read probabilities of a bank's captions
METHODS = ("dann", "cdan", "mmd", "coral", "mcc", "bnm")
SCHEDULES = ("ramp", "constant")  # of the strength
JOINT = "joint"  # the place where both modalities are points of one space
