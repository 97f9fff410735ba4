"""What stands in infra/ and .github/: read, linted, validated, and run as far as that goes without a cloud."""
