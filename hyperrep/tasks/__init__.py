"""What a hyper-representation is good for: probe, reconstruct, generate. Each returns tidy DataFrames."""
