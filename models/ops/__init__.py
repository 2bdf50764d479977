"""Operations on batches of images that methods share: augmentation, color, tiles, patches, flow, codebooks."""
