"""What a person wears: clothes, headwear, glasses, jewellery."""
