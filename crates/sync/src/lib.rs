//! How workers meet and agree: shares, membership, strategies.
