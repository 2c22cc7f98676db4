"""Why a model answers as it does, and where: numbers for people, without pictures."""
