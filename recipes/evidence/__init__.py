"""What is known of a method's quality: published, measured in the profile, raced on this model."""
