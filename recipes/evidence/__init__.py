"""What is known of a method's quality: published, predicted from the profile, raced on this model."""
