{{/* Egress of a pod, as items of a list. Takes root, qdrant (whether it needs it), search and extra. */}}
{{- define "vectide.egress" -}}
{{- $policy := .root.Values.networkPolicy -}}
- ports:
    {{- range $policy.dns.ports }}
    - {port: {{ . }}, protocol: UDP}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
- ports:
    {{- $ports := $policy.kafka.ports }}
    {{- if not $ports }}
    {{- range splitList "," .root.Values.config.kafka.bootstrap_servers }}
    {{- $ports = append $ports (regexFind "[0-9]+$" (regexFind ":[0-9]+$" (trim .)) | default "9092" | int) }}
    {{- end }}
    {{- end }}
    {{- range $ports | uniq }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
  {{- with $policy.kafka.to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- if .qdrant }}
- ports:
    {{- $ports := $policy.qdrant.ports }}
    {{- if not $ports }}
    {{- $qdrant := .root.Values.config.qdrant }}
    {{- $ports = list (regexFind "[0-9]+$" (regexFind ":[0-9]+$" (urlParse $qdrant.url).host) | default "6333" | int) }}
    {{- if $qdrant.grpc }}{{ $ports = append $ports (int (default 6334 $qdrant.grpc_port)) }}{{ end }}
    {{- end }}
    {{- range $ports }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
  {{- with $policy.qdrant.to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- if .search }}
- ports:
    - {port: {{ .root.Values.http.port }}, protocol: TCP}
  to:
    - podSelector:
        matchLabels:
          {{- include "vectide.selector" (dict "root" .root "component" "search") | nindent 10 }}
{{- end }}
{{- with .extra }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* A NetworkPolicy's spec. Takes root, component, source, role, extra, and http: it is reached for metrics. */}}
{{- define "vectide.networkPolicy" -}}
podSelector:
  matchLabels:
    {{- include "vectide.selector" . | nindent 4 }}
policyTypes: [Ingress, Egress]
{{- if .http }}
ingress:
  - ports:
      - {port: {{ .root.Values.http.port }}, protocol: TCP}
    {{- with .root.Values.networkPolicy.metricsFrom }}
    from:
      {{- toYaml . | nindent 6 }}
    {{- end }}
  {{- with .push }}
  - ports:
      - {port: {{ . }}, protocol: TCP}
    {{- with dig "service" "from" list $.values }}
    from:
      {{- toYaml . | nindent 6 }}
    {{- end }}
  {{- end }}
  {{- if eq .component "search" }}
  - ports:
      - {port: {{ .root.Values.http.port }}, protocol: TCP}
    {{- with .root.Values.networkPolicy.searchFrom }}
    from:
      - podSelector:
          matchLabels:
            {{- include "vectide.selector" (dict "root" $.root "component" "canary") | nindent 12 }}
      {{- toYaml . | nindent 6 }}
    {{- end }}
  {{- end }}
{{- end }}
egress:
  {{- include "vectide.egress" . | nindent 2 }}
{{- end -}}
