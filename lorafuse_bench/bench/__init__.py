"""What the methods cost, measured side by side: `lorafuse bench`."""
