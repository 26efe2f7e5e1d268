"""HOW a record is paid for: asked live or in a batch, reserved before, booked after."""
