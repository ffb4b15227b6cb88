"""The loop on one machine: started, shopped in, watched and summed up."""
