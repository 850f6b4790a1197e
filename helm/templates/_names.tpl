{{/* First part of every name. 26 characters leave room for `-connector-` and 26 of a source. */}}
{{- define "vectide.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 26 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 26 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What selects the pods of one component. Takes root, component and, of a connector, source. */}}
{{- define "vectide.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride | trunc 63 | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component | quote }}
{{- with .source }}
vectide.io/source: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* Metadata of an object. Takes root, name, component, and perhaps source, labels, annotations. */}}
{{- define "vectide.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "vectide.selector" . | nindent 2 }}
  app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ .root.Release.Service | quote }}
  helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | quote }}
  {{- range $key, $value := merge (dict) (default dict .labels) .root.Values.commonLabels }}
  {{ $key }}: {{ $value | quote }}
  {{- end }}
{{- with merge (dict) (default dict .annotations) .root.Values.commonAnnotations }}
annotations:
  {{- range $key, $value := . }}
  {{ $key }}: {{ $value | quote }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "vectide.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "vectide.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* An image's reference. Takes root and which: base or embed. */}}
{{- define "vectide.image" -}}
{{- $image := index .root.Values.image .which -}}
{{- $repository := $image.repository -}}
{{- with .root.Values.image.registry }}{{ $repository = printf "%s/%s" (trimSuffix "/" .) $repository }}{{ end -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $repository $image.digest -}}
{{- else -}}
{{- $tag := ternary (printf "%s-embed" .root.Chart.AppVersion) .root.Chart.AppVersion (eq .which "embed") -}}
{{- printf "%s:%s" $repository (default $tag $image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Seconds that a pod has to end: to drain, to commit and leave its group, and 15 more. */}}
{{- define "vectide.graceSeconds" -}}
{{- add (ceil .Values.config.work.drain_seconds) 30 -}}
{{- end -}}

{{/* The port that senders push documents to; 0: this connector has none. Takes an item of connectors. */}}
{{- define "vectide.pushPort" -}}
{{- if eq .connector "http" }}{{ dig "settings" "port" 8090 . | int }}{{ else }}0{{ end -}}
{{- end -}}

{{/* All components that are long-lived pods, as JSON: what differs between them. */}}
{{- define "vectide.components" -}}
{{- $root := . -}}
{{- $found := list -}}
{{- range .Values.connectors -}}
{{- $values := merge (deepCopy (omit . "name" "connector" "settings" "rescanSeconds")) (deepCopy $root.Values.connectorDefaults) -}}
{{- $push := include "vectide.pushPort" . | int -}}
{{- $found = append $found (dict "name" (printf "connector-%s" .name) "push" $push "component" "connector" "source" .name "role" "connector" "image" "base" "args" (list "connect" .connector "--source" .name) "values" $values "scales" false "group" false "model" false) -}}
{{- end -}}
{{- $found = append $found (dict "name" "chunk" "component" "chunk" "role" "chunk" "image" "base" "args" (list "work" "chunk") "values" .Values.chunk "scales" true "group" true "model" true) -}}
{{- $found = append $found (dict "name" "embed" "component" "embed" "role" "embed" "image" "embed" "args" (list "work" "embed") "values" .Values.embed "scales" true "group" true "model" true) -}}
{{- if .Values.search.enabled -}}
{{- $found = append $found (dict "name" "search" "component" "search" "role" "search" "image" "embed" "args" (list "serve") "values" .Values.search "scales" true "group" false "model" true) -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{/* Whether something else than `replicas` says how many pods there are. Takes a component's values. */}}
{{- define "vectide.autoscaled" -}}
{{- $scaling := default dict .autoscaling -}}
{{- if or (dig "hpa" "enabled" false $scaling) (dig "keda" "enabled" false $scaling) }}true{{ end -}}
{{- end -}}
