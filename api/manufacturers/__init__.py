"""Manufacturer CAs: whose devices may enrol with the certificate that they were made with."""
