"""What a module's forward does, by torch.fx: followed, compared with another's, and which batch norms fold into convolutions."""
