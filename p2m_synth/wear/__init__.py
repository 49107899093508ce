"""What a person wears.

style         drawn at random: which headwear, glasses, earrings, mask, in which colours and patterns
accessories   puts all of these on a head; makes earrings and face masks itself
headwear, glasses
clothes       draws an outfit and makes it for a torso
fabric        colours and patterns of cloth, and the torso that it lies on
"""
