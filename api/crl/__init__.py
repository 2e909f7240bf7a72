"""The certificate revocation list, for people's programs and for anybody."""
