"""What is minimised: preference losses, divergences and the metrics beside them."""
