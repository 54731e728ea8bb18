"""From words to a screen: tables, progress and messages in the terminal."""
