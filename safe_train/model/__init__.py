"""SAFE's model: a frozen vision-language base, frozen audio encoders, and the trained parts between them."""
