#!/bin/bash
# Who may include whom (layers.txt), how includes are written, and what each folder may see.
. "$(dirname "$0")/common.sh"

# Prints "PATH:LINE HEADER" for each include with quotes of the given files.
quoted_includes() {
  xargs -r awk 'match($0, /^[ ]*#[ ]*include[ ]+"[^"]+"/) {
    header = substr($0, RSTART, RLENGTH); sub(/^[^"]*"/, "", header); sub(/".*/, "", header)
    print FILENAME ":" FNR, header
  }'
}
system_includes() {
  xargs -r awk 'match($0, /^[ ]*#[ ]*include[ ]+<[^>]+>/) {
    header = substr($0, RSTART, RLENGTH); sub(/^[^<]*</, "", header); sub(/>.*/, "", header)
    print FILENAME ":" FNR, header
  }'
}

files_in "c h cu cuh" src | quoted_includes | awk -v layers="$LINT_DIR/layers.txt" '
  BEGIN {
    while ((getline line < layers) > 0) {
      if (line ~ /^#/ || line == "") continue
      rank++
      n = split(line, names, " ")
      for (i = 1; i <= n; i++) order[names[i]] = rank
    }
  }
  {
    split($1, path, "/")
    split($2, header, "/")
    from = path[2]; to = header[1]
    if (!(from in order)) { print $1 ": the folder src/" from " is not in layers.txt"; next }
    if (to == "clocher" || to == from) next
    if (!(to in order)) print $1 ": includes \"" $2 "\", which is no layer"
    else if (order[to] >= order[from]) print $1 ": " from " includes \"" $2 "\", which does not stand left of it"
  }' | verdict "src includes only to the left"

files_in "h" include | quoted_includes | awk '$2 !~ /^clocher\// { print $1 ": includes \"" $2 "\"" }' |
  verdict "public headers include public headers only"

{
  files_in "c h" cli | quoted_includes | awk '$2 ~ /\// && $2 !~ /^clocher\// { print $1 ": includes \"" $2 "\"" }'
  files_in "c h" cli | system_includes |
    awk '$2 ~ /^(pcre2|utf8proc|nettle\/|liburing|hwloc)/ { print $1 ": includes <" $2 ">" }'
} | verdict "the command line sees the public headers, jansson and the C library only"

files_in "c h cu cuh" src include | quoted_includes | while read -r where header; do
  [[ $header != *..* && (-f src/$header || -f include/$header) ]] || echo "$where: \"$header\" is not written from src/ or include/"
done | verdict "includes are written from src/ or include/"

files_in "c h" src | system_includes |
  awk '$2 ~ /intrin\.h$/ && $1 !~ /^src\/kernels\/(avx2|avx512|amx|neon)\// { print $1 ": <" $2 ">" }' |
  verdict "intrinsics stand in the folder of their instruction set"

files_in "c h" src | xargs -r grep -nE '^[ ]*#[ ]*(el)?if.*__(AVX|AMX|SSE|FMA)' | verdict "no conditional code by instruction set"

files_in "h" include src cli tests | while read -r header; do
  guard=$(sed -E 's|^include/||; s|^src/|CLOCHER_|; s|^cli/|CLOCHER_CLI_|; s|^tests/|CLOCHER_TESTS_|; s|[/.-]|_|g' <<<"$header")
  grep -q "^#ifndef ${guard^^}\$" "$header" || echo "$header: expected the guard ${guard^^}"
done | verdict "headers are guarded by their own name"
finish
