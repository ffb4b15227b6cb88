"""Items as short code sequences: features, residual k-means, assignment, quality."""
