#!/bin/bash
# Runs a command in a memory cgroup of its own (version 1 or 2), and says on stderr what it held at most: page cache and
# the kernel's memory count, as they do in a container.
#   benchmarks/in_cgroup.sh LIMIT|none [--cold FILE...] -- COMMAND...
# LIMIT in bytes, or with K, M, G (powers of 1024). --cold: the page cache first forgets these files, so that their pages
# are counted here and not where they were read before. Needs the right to make cgroups (root).
# Prints: cgroup: peak N bytes, failures N (times that the limit was hit and pages were taken back), killed N.
set -u
usage() { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ $# -gt 0 ] || usage
limit=$1
shift
cold=()
if [ "${1:-}" = --cold ]; then
  shift
  while [ $# -gt 0 ] && [ "$1" != -- ]; do cold+=("$1"); shift; done
fi
[ "${1:-}" = -- ] && shift
[ $# -gt 0 ] || usage
for file in ${cold[@]+"${cold[@]}"}; do
  [ -r "$file" ] || { echo "in_cgroup: --cold: $file cannot be read" >&2; exit 2; }
done

bytes() {
  case $1 in
  none) echo none ;;
  *[KMG]) numfmt --from=iec "$1" ;;
  *) echo "$1" ;;
  esac
}
limit=$(bytes "$limit") || exit 2
case $limit in none) ;; '' | *[!0-9]*) echo "in_cgroup: $limit: expected bytes, or with K, M or G, or none" >&2; exit 2 ;; esac

if [ -d /sys/fs/cgroup/memory ] && [ -e /sys/fs/cgroup/memory/memory.limit_in_bytes ]; then
  group=/sys/fs/cgroup/memory/clocher.$$
  mkdir "$group" || exit 77
  [ "$limit" = none ] || echo "$limit" >"$group/memory.limit_in_bytes" || { rmdir "$group"; exit 77; }
  peak=memory.max_usage_in_bytes
  failures() { cat "$group/memory.failcnt"; }
  killed() { awk '$1 == "oom_kill" { print $2 }' "$group/memory.oom_control"; }
elif grep -qw memory /sys/fs/cgroup/cgroup.controllers 2>/dev/null; then
  group=/sys/fs/cgroup/clocher.$$
  mkdir "$group" || exit 77
  [ "$limit" = none ] || echo "$limit" >"$group/memory.max" || { rmdir "$group"; exit 77; }
  [ ! -e "$group/memory.swap.max" ] || echo 0 >"$group/memory.swap.max"
  peak=memory.peak
  failures() { awk '$1 == "max" { print $2 }' "$group/memory.events"; }
  killed() { awk '$1 == "oom_kill" { print $2 }' "$group/memory.events"; }
else
  echo "in_cgroup: no memory cgroup here" >&2
  exit 77
fi
for file in ${cold[@]+"${cold[@]}"}; do dd if="$file" iflag=nocache count=0 status=none; done

(
  echo "$BASHPID" >"$group/cgroup.procs" || exit 77
  exec "$@"
) &
child=$!
trap 'kill -TERM $child 2>/dev/null' TERM
trap 'kill -INT $child 2>/dev/null' INT
wait $child
code=$?
while kill -0 $child 2>/dev/null; do wait $child; code=$?; done # a signal ends a wait
echo "cgroup: peak $(cat "$group/$peak") bytes, failures $(failures), killed $(killed)" >&2
rmdir "$group"
exit $code
