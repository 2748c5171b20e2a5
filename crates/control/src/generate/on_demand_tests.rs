//! What comes along with what a proxy asks for.
