"""What a recipe is, costs and lacks, found by arithmetic."""
