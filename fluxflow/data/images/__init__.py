"""From the bytes of an image to a training example: decoding, buckets, crops, captions."""
