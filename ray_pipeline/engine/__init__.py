"""How stages run: units, commits, the account, and Ray Data."""
