"""What people look at: contact sheets, plots, maps, galleries and reports in one HTML file."""
