{{- define "vectide.toml.key" -}}
{{- ternary . (toJson .) (regexMatch "^[A-Za-z0-9_-]+$" .) -}}
{{- end -}}

{{/* A value in TOML. JSON writes texts, numbers and booleans as TOML does. */}}
{{- define "vectide.toml.value" -}}
{{- if kindIs "map" . -}}
{ {{- range $place, $key := keys . | sortAlpha }}{{ if $place }},{{ end }} {{ include "vectide.toml.key" $key }} = {{ include "vectide.toml.value" (index $ $key) }}{{ end }} }
{{- else if kindIs "slice" . -}}
[{{ range $place, $one := . }}{{ if $place }}, {{ end }}{{ include "vectide.toml.value" $one }}{{ end }}]
{{- else -}}
{{ toJson . }}
{{- end -}}
{{- end -}}

{{/* A table in TOML, its own keys before its tables. Takes table and path, the table's name. */}}
{{- define "vectide.toml.table" -}}
{{- $path := .path -}}
{{- range $key, $value := .table }}
{{- if not (or (kindIs "map" $value) (kindIs "invalid" $value)) }}
{{ include "vectide.toml.key" $key }} = {{ include "vectide.toml.value" $value }}
{{- end }}
{{- end }}
{{- range $key, $value := .table }}
{{- if kindIs "map" $value }}
{{- $name := list $path (include "vectide.toml.key" $key) | join "." | trimPrefix "." }}

[{{ $name }}]
{{- include "vectide.toml.table" (dict "table" $value "path" $name) }}
{{- end }}
{{- end }}
{{- end -}}

{{/* vectide.toml: what the values say, and what the chart itself knows. One file for all roles. */}}
{{- define "vectide.config" -}}
{{- $sources := dict -}}
{{- range .Values.connectors -}}
{{- $source := merge (dict "connector" .connector) (deepCopy (default dict .settings)) -}}
{{- with .rescanSeconds }}{{ $_ := set $source "rescan_seconds" . }}{{ end -}}
{{- with include "vectide.pushPort" . | int }}
{{- $source = merge $source (dict "host" $.Values.http.host "port" .) -}}
{{- end -}}
{{- $_ := set $sources .name $source -}}
{{- end -}}
{{- $own := dict "broker" "kafka" "store" "qdrant" "state" "/var/lib/vectide" -}}
{{- $_ := set $own "http" (dict "host" .Values.http.host "port" (int .Values.http.port)) -}}
{{- if $sources }}{{ $_ := set $own "sources" $sources }}{{ end -}}
{{- include "vectide.toml.table" (dict "table" (merge $own (deepCopy .Values.config)) "path" "") | trim -}}
{{- end -}}

{{/* A secret of a role: the role's own where there is one, else the common one; as JSON. Takes root, role and secret. */}}
{{- define "vectide.secret" -}}
{{- $own := dig .role .secret dict .root.Values.roles -}}
{{- if dig "existingSecret" "" $own -}}
{{- toJson $own -}}
{{- else -}}
{{- toJson (index .root.Values.secrets .secret) -}}
{{- end -}}
{{- end -}}

{{/* Every file of a secret that a role needs, as JSON: its file's name, secret, key and the setting that names it.
Takes root and role, and component for what only one of them needs. */}}
{{- define "vectide.secretFiles" -}}
{{- $root := .root -}}
{{- $role := .role -}}
{{- $found := list -}}
{{- $password := include "vectide.secret" (dict "root" $root "role" $role "secret" "kafkaPassword") | fromJson -}}
{{- if $password.existingSecret -}}
{{- $found = append $found (dict "file" "kafka-password" "secret" $password.existingSecret "key" $password.key "setting" "VECTIDE_KAFKA__SASL_PASSWORD_FILE") -}}
{{- end -}}
{{- $tls := $root.Values.secrets.kafkaTls -}}
{{- if $tls.existingSecret -}}
{{- range $file := list (list "kafka-ca.crt" $tls.caKey "SSL_CAFILE") (list "kafka-tls.crt" $tls.certKey "SSL_CERTFILE") (list "kafka-tls.key" $tls.keyKey "SSL_KEYFILE") (list "kafka-key-password" $tls.keyPasswordKey "SSL_KEY_PASSWORD_FILE") -}}
{{- if index $file 1 -}}
{{- $found = append $found (dict "file" (index $file 0) "secret" $tls.existingSecret "key" (index $file 1) "setting" (printf "VECTIDE_KAFKA__%s" (index $file 2))) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- /* A canary without a search service writes as a connector, and searches as a search. */ -}}
{{- $reader := ternary "search" $role (and (eq .component "canary") (not $root.Values.search.enabled)) -}}
{{- if and (has $reader (list "embed" "search" "operator")) (ne .component "topics") -}}
{{- $key := include "vectide.secret" (dict "root" $root "role" $reader "secret" "qdrantApiKey") | fromJson -}}
{{- if $key.existingSecret -}}
{{- $found = append $found (dict "file" "qdrant-api-key" "secret" $key.existingSecret "key" $key.key "setting" "VECTIDE_QDRANT__API_KEY_FILE") -}}
{{- end -}}
{{- with $root.Values.secrets.qdrantCa -}}
{{- if .existingSecret -}}
{{- $found = append $found (dict "file" "qdrant-ca.crt" "secret" .existingSecret "key" .key "setting" "VECTIDE_QDRANT__CA_FILE") -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and (has .component (list "search" "canary")) $root.Values.search.enabled -}}
{{- with $root.Values.secrets.httpToken -}}
{{- $found = append $found (dict "file" "http-token" "secret" .existingSecret "key" .key "setting" "VECTIDE_HTTP__TOKEN_FILE") -}}
{{- end -}}
{{- end -}}
{{- if eq .component "toolbox" -}}
{{- with $root.Values.secrets.receiptKey -}}
{{- if .existingSecret -}}
{{- $found = append $found (dict "file" "receipt-key" "secret" .existingSecret "key" .key "setting" "VECTIDE_RECEIPT_KEY_FILE") -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}
