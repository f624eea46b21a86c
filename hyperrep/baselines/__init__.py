"""What every probe score stands beside: weight statistics and encoders that learned nothing."""
