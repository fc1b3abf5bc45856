"""``edgekit report``: bundles beside each other, on one page that needs nothing else, or as a summary for CI."""
