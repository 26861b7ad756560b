"""What an attacker of the observations can do to a policy at worst: certificates, and attacks to hold against them."""
