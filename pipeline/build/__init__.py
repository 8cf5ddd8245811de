"""The build: a manifest's media through decoding, faces and CLIP into a store."""
