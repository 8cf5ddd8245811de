"""Is a store whole? All of it is held against its seals, checksums, configs and ledgers; what is wrong is named with its samples."""

from d2st.cache.verify.damage import KINDS, MENDS, Damage, Verification
from d2st.cache.verify.run import verify

__all__ = ["KINDS", "MENDS", "Damage", "Verification", "verify"]
