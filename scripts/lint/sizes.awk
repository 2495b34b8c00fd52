# Prints "KIND PATH NAME FOUND LIMIT" for each file, function, macro or parameter list that is too long.
# KIND is lines, function or parameters; NAME is "-" for a file. Wants clang-formatted C: a body at file level ends
# with a brace in the first column. Limits: -v LINES -v FUNCTION -v PARAMETERS.

# The line without comments, string and character contents; block comments may go on to the next line.
function stripped(line,    out, at) {
  out = ""
  while (length(line) > 0) {
    if (in_comment) {
      at = index(line, "*/")
      if (at == 0) return out
      line = substr(line, at + 2)
      in_comment = 0
      continue
    }
    at = match(line, /"([^"\\]|\\.)*"|'([^'\\]|\\.)*'|\/\*|\/\//)
    if (at == 0) return out line
    out = out substr(line, 1, at - 1)
    if (substr(line, at, 2) == "//") return out
    if (substr(line, at, 2) == "/*") in_comment = 1
    else out = out "0"
    line = substr(line, at + RLENGTH)
  }
  return out
}

# Takes __attribute__((...)) out, so that the last parenthesis of a head is its parameter list.
function without_attributes(text,    at, i, depth, c) {
  while ((at = match(text, /__attribute__[ ]*\(/)) > 0) {
    depth = 0
    for (i = at + RLENGTH - 1; i <= length(text); i++) {
      c = substr(text, i, 1)
      if (c == "(") depth++
      if (c == ")" && --depth == 0) break
    }
    text = substr(text, 1, at - 1) substr(text, i + 1)
  }
  return text
}

# Sets head_name and head_parameters; 0 when the text is no function head.
function parse_head(text,    i, depth, c, commas, close_at, list) {
  text = without_attributes(text)
  if (text ~ /=/ || text ~ /^[ ]*typedef/) return 0
  for (i = length(text); i > 0 && substr(text, i, 1) != ")"; i--);
  if (i == 0) return 0
  close_at = i
  for (depth = 0; i > 0; i--) {
    c = substr(text, i, 1)
    if (c == ")") depth++
    if (c == "(" && --depth == 0) break
    if (c == "," && depth == 1) commas++
  }
  list = substr(text, i + 1, close_at - i - 1)
  head_parameters = list ~ /^[ ]*(void)?[ ]*$/ ? 0 : commas + 1
  text = substr(text, 1, i - 1)
  sub(/[ ]+$/, "", text)
  if (!match(text, /[A-Za-z_][A-Za-z_0-9]*$/)) return 0
  head_name = substr(text, RSTART)
  return 1
}

function report(kind, name, found, limit) { if (found > limit) print kind, path, name, found, limit }

function end_file() {
  if (path != "") report("lines", "-", lines, LINES)
}

FNR == 1 {
  end_file()
  path = FILENAME
  in_comment = depth = 0
  head = function_name = macro_name = ""
}

{ lines = FNR }

# Preprocessor lines, with their continuations: a macro has the length limit of a function.
macro_name != "" || (!in_comment && /^[ ]*#/) {
  if (macro_name == "") {
    macro_start = FNR
    macro_name = match($0, /#[ ]*define[ ]+[A-Za-z_0-9]+/) ? substr($0, RSTART, RLENGTH) : "#"
    sub(/.*[ ]/, "", macro_name)
  }
  if ($0 !~ /\\$/) {
    report("function", macro_name, FNR - macro_start + 1, FUNCTION)
    macro_name = ""
    stripped($0)
  }
  next
}

{
  code = stripped($0)
  if (code ~ /^}/) depth = function_name == "" && depth == 0 ? 0 : 1
  n = length(code)
  for (i = 1; i <= n; i++) {
    c = substr(code, i, 1)
    if (c == "{") {
      if (depth == 0 && head ~ /^[ ]*extern 0[ ]*$/) { head = ""; continue }
      if (depth++ == 0 && parse_head(head)) {
        function_name = head_name
        function_start = head_start
        report("parameters", head_name, head_parameters, PARAMETERS)
      }
    } else if (c == "}") {
      if (depth > 0 && --depth == 0) {
        if (function_name != "") report("function", function_name, FNR - function_start + 1, FUNCTION)
        function_name = head = ""
      }
    } else if (depth == 0) {
      if (c == ";") {
        if (parse_head(head)) report("parameters", head_name, head_parameters, PARAMETERS)
        head = ""
      } else {
        if (head == "" && c == " ") continue
        if (head == "") head_start = FNR
        head = head c
      }
    }
  }
  if (head != "") head = head " "
}

END { end_file() }
