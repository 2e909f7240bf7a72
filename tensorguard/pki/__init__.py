"""Who is speaking: identity in a certificate, issuer, CSR, trust bundle."""
