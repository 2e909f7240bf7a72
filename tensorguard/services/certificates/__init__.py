"""The platform's CAs and every certificate they issue, renew, replace or list as revoked."""
