#!/bin/bash
# Compares what `clocher plan` predicts with what a memory cgroup counts, and prints a Markdown table.
#   benchmarks/plan_check.sh MODEL_DIR...
# Environment: CLOCHER (build/clocher), CONTEXTS ("128 8192 32768"), KV ("f16 int8"), LIMITS ("none 4G").
# Under a limit memory of a state is touched when it is taken: a run reads 127 ids of the whole vocabulary and writes one
# more. Without one a context has to be filled to be counted: `bench` fills all but the last 127 positions with random keys
# and values, and computes 127 ids there, twice; its probe takes 1 MiB more. The page cache forgets the weights first; pages
# that another program has mapped stay there, and are counted where they were read. The peak of the resident set (RSS)
# counts them here, but not the kernel's memory. Needs the right to make cgroups.
set -u
[ $# -gt 0 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
here=$(dirname "$0")
clocher=${CLOCHER:-build/clocher}
err=$(mktemp)
out=$(mktemp)
trap 'rm -f "$err" "$out"' EXIT
share() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.3f", a / b }'; }
field() { sed -nE "s/.*\"$1\":([0-9a-z]+).*/\1/p"; }

echo "| model | context | KV | limit | plan, bytes | cgroup maximum | plan / cgroup | peak RSS | plan / RSS | experts in memory |"
echo "|---|---|---|---|---|---|---|---|---|---|"
for model in "$@"; do
  vocab=$(sed -nE 's/.*"vocab_size": *([0-9]+).*/\1/p' "$model/config.json" | head -1)
  ids=$(awk -v v="$vocab" 'BEGIN { for (i = 0; i < 127; i++) printf "%s%d", i ? "," : "", (i * 7919 + 12345) % v }')
  for context in ${CONTEXTS:-128 8192 32768}; do
    for kv in ${KV:-f16 int8}; do
      for limit in ${LIMITS:-none 4G}; do
        size=$(sed 's/[KMG]$/&iB/' <<<"$limit") memory=()
        [ "$limit" = none ] || memory=(--memory "$size")
        plan=$("$clocher" plan --model-dir "$model" --ctx "$context" --kv "$kv" ${memory[@]+"${memory[@]}"} --json) || exit 1
        predicted=$(field peak_bytes <<<"$plan")
        row="| $(basename "$model") | $context | $kv | $size | $predicted"
        if [ "$(field fits <<<"$plan")" = false ]; then
          echo "$row | refused: $(field minimum_bytes <<<"$plan") needed | | | | |"
          continue
        fi
        shards=("$model"/*.safetensors)
        work=(run --ids "$ids" --max-new 1 --ctx "$context" --ignore-eos)
        [ "$limit" != none ] ||
          work=(bench --phase prefill --prompt 127 --depth $((context - 127)) --runs 1 --probe-buffer 1MiB --probe-read 1MiB)
        "$here/in_cgroup.sh" "$limit" --cold "${shards[@]}" -- "$clocher" "${work[@]}" --model-dir "$model" --kv "$kv" \
          ${memory[@]+"${memory[@]}"} --json >"$out" 2>"$err" || { cat "$err" >&2; exit 1; }
        peak=$(sed -nE 's/^cgroup: peak ([0-9]+) .*/\1/p' "$err")
        slots=$(sed -nE 's/.*\(([0-9]+) at a time.*/\1/p' "$err")
        rss=$(field peak_rss_bytes <"$out")
        if [ "$peak" -lt "$rss" ]; then
          echo "$row | void: $rss bytes were resident, $peak counted (pages that another program had read) | | | | |"
          continue
        fi
        echo "$row | $peak | $(share "$predicted" "$peak") | $rss | $(share "$predicted" "$rss") | ${slots:-all} |"
      done
    done
  done
done
