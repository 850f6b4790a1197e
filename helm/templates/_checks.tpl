{{/* The first secret in a connector's settings, as a message; empty if there is none. A file that holds one is none.
Takes connector (its id), path (where the value is), env (the names that lead to it) and value. */}}
{{- define "vectide.plainSecret" -}}
{{- $about := . -}}
{{- $found := "" -}}
{{- if kindIs "map" .value -}}
{{- range $key, $value := .value -}}
{{- if not $found -}}
{{- $path := printf "%s.%s" $about.path $key -}}
{{- $env := ternary $about.env (append $about.env $key) (default false $about.listed) -}}
{{- if and (regexMatch "(?i)(^|[_-])(password|passwd|passphrase|pwd|secret|token|(api|access|account|private|shared|signing|encryption|master)[_-]?key)$" $key) (not (kindIs "bool" $value)) (toString (default "" $value)) -}}
{{- $found = include "vectide.plainSecret.message" (dict "path" $path "env" $env "what" "") -}}
{{- else -}}
{{- $found = include "vectide.plainSecret" (dict "path" $path "env" $env "listed" $about.listed "value" $value) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- else if kindIs "slice" .value -}}
{{- range $place, $value := .value -}}
{{- if not $found -}}
{{- $found = include "vectide.plainSecret" (dict "path" (printf "%s[%d]" $about.path $place) "env" $about.env "listed" true "value" $value) -}}
{{- end -}}
{{- end -}}
{{- else if kindIs "string" .value -}}
{{- $address := `(?i)://[^/@"\s]*:[^@"\s]+@|https?://[^/@":]+@` -}}
{{- $pair := `(?i)(password|passwd|passphrase|pwd|secret|token|(api|account|access)_?key)\s*=\s*[^\s&{]` -}}
{{- if or (regexMatch $address .value) (regexMatch $pair .value) -}}
{{- $found = include "vectide.plainSecret.message" (dict "path" .path "env" .env "what" " has a password or a token in it and") -}}
{{- end -}}
{{- end -}}
{{- $found -}}
{{- end -}}

{{/* What to do about it. Nothing in the environment leads into a list: there the whole list is given. */}}
{{- define "vectide.plainSecret.message" -}}
{{- printf "%s%s would lie in a ConfigMap: set VECTIDE_SOURCES__%s from a Secret in its env, or name a file of a volume where the connector takes one (password_file ...)" .path .what (join "__" .env | upper) -}}
{{- end -}}

{{/* A quantity of Kubernetes in bytes. Takes it as text or number. */}}
{{- define "vectide.bytes" -}}
{{- $text := toString . -}}
{{- if kindIs "float64" . }}{{ $text = printf "%.0f" . }}{{ end -}}
{{- $unit := regexFind "([KMGTPE]i|[mkMGTPE])$" $text -}}
{{- $factors := dict "" 1.0 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 "Ei" 1152921504606846976.0 -}}
{{- mulf (float64 (trimSuffix $unit $text)) (get $factors $unit) | int64 -}}
{{- end -}}
