#!/bin/sh
# Writes deploy/compose/digests.yaml, an overlay that names each image that others made by its digest: the one that this machine pulled,
# or the one that its registry has now. It is for the compose files in use (COMPOSE_FILE). See docs/operations.md, "More of it".
set -eu
cd "$(dirname "$0")/../.."
overlay=deploy/compose/digests.yaml

images=$(docker compose config | awk '
  /^[a-z]/ { services = $1 == "services:" }
  services && /^  [^ ]/ { name = $1 }
  services && /^    image: / && $2 !~ /^penstock\// { sub(/@.*/, "", $2); print name, $2 }')
{
  echo '# Written by deploy/compose/digests.sh.'
  echo 'services:'
} > "$overlay.new"
echo "$images" | while read -r name image; do
  digest=$(docker image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' "$image" 2>/dev/null | sed -n 's/.*@//p' | head -n 1)
  [ -n "$digest" ] || digest=$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$image") || {
    echo "digests: neither this machine nor a registry knows the digest of $image. Pull it: docker compose pull" >&2
    exit 1
  }
  echo "  $name {image: \"$image@$digest\"}"
done >> "$overlay.new" || { rm "$overlay.new"; exit 1; }
mv "$overlay.new" "$overlay"
echo "$overlay: $(echo "$images" | wc -l) images"
