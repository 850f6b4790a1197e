{{/* A pod's spec. Takes root, component, role, image (base or embed), args, values (resources, scheduling, volumes), model
(it needs the weights' files), config (its ConfigMap), and perhaps source, command, probes (it is long-lived),
restartPolicy, volumes and volumeMounts. */}}
{{- define "vectide.pod" -}}
{{- $root := .root -}}
{{- $values := .values -}}
{{- $weights := $root.Values.weights -}}
{{- $files := include "vectide.secretFiles" (dict "root" $root "role" .role "component" .component) | fromJsonArray -}}
{{- $mounted := and .model (ne $weights.mode "baked") -}}
automountServiceAccountToken: false
# With them Kubernetes sets VECTIDE_..._PORT for a Service of that name, which vectide takes for a setting.
enableServiceLinks: false
serviceAccountName: {{ default (include "vectide.serviceAccountName" $root) .serviceAccountName }}
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  {{- toYaml $root.Values.podSecurityContext | nindent 2 }}
{{- with .restartPolicy }}
restartPolicy: {{ . }}
{{- end }}
terminationGracePeriodSeconds: {{ include "vectide.graceSeconds" $root }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .spread }}
topologySpreadConstraints:
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "vectide.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}
{{- if and $mounted (or (eq $weights.mode "init") $weights.verify) }}
initContainers:
  {{- if eq $weights.mode "init" }}
  - name: weights
    image: {{ $weights.init.image }}
    imagePullPolicy: {{ $root.Values.image.pullPolicy }}
    command:
      {{- toYaml $weights.init.command | nindent 6 }}
    securityContext:
      {{- toYaml $root.Values.securityContext | nindent 6 }}
    resources:
      {{- toYaml $weights.init.resources | nindent 6 }}
    volumeMounts:
      - {name: weights, mountPath: {{ $weights.path }}}
      - {name: tmp, mountPath: /tmp}
  {{- end }}
  {{- if $weights.verify }}
  - name: verify-weights
    image: {{ include "vectide.image" (dict "root" $root "which" .image) }}
    imagePullPolicy: {{ $root.Values.image.pullPolicy }}
    command: [vectide]
    args: [config, weights]
    env:
      {{- include "vectide.env" (dict "root" $root "role" .role "files" $files "model" true) | nindent 6 }}
    securityContext:
      {{- toYaml $root.Values.securityContext | nindent 6 }}
    resources:
      {{- toYaml $weights.init.resources | nindent 6 }}
    volumeMounts:
      {{- include "vectide.mounts" (dict "root" $root "files" $files "mounted" true) | nindent 6 }}
  {{- end }}
{{- end }}
containers:
  - name: vectide
    image: {{ include "vectide.image" (dict "root" $root "which" .image) }}
    imagePullPolicy: {{ $root.Values.image.pullPolicy }}
    command:
      {{- toYaml (default (list "vectide") .command) | nindent 6 }}
    {{- with .args }}
    args:
      {{- range . }}
      - {{ . | quote }}
      {{- end }}
    {{- end }}
    env:
      {{- include "vectide.env" (dict "root" $root "role" .role "files" $files "model" .model "gpu" (dig "gpu" "enabled" false $values)) | nindent 6 }}
      {{- with $values.env }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    {{- if .probes }}
    ports:
      - {name: http, containerPort: {{ $root.Values.http.port }}, protocol: TCP}
      {{- with .push }}
      - {name: push, containerPort: {{ . }}, protocol: TCP}
      {{- end }}
    startupProbe:
      httpGet: {path: /startupz, port: http}
      {{- toYaml $root.Values.probes.startup | nindent 6 }}
    livenessProbe:
      httpGet: {path: /livez, port: http}
      {{- toYaml $root.Values.probes.liveness | nindent 6 }}
    readinessProbe:
      httpGet: {path: /readyz, port: http}
      {{- toYaml $root.Values.probes.readiness | nindent 6 }}
    {{- else if .command }}
    livenessProbe:
      exec: {command: ["true"]}
      periodSeconds: 60
    readinessProbe:
      exec: {command: ["true"]}
      periodSeconds: 60
    {{- end }}
    securityContext:
      {{- toYaml $root.Values.securityContext | nindent 6 }}
    resources:
      {{- $resources := deepCopy $values.resources }}
      {{- if dig "gpu" "enabled" false $values }}
      {{- $_ := set $resources "limits" (merge (dict $values.gpu.resource (int $values.gpu.count)) (default dict $resources.limits)) }}
      {{- end }}
      {{- toYaml $resources | nindent 6 }}
    volumeMounts:
      {{- include "vectide.mounts" (dict "root" $root "files" $files "mounted" $mounted) | nindent 6 }}
      {{- range concat (default list $values.volumeMounts) (default list .volumeMounts) }}
      - {{ toJson . }}
      {{- end }}
volumes:
  - name: config
    configMap: {name: {{ .config }}}
  - name: tmp
    emptyDir: {}
  - name: state
    {{- if dig "state" "existingClaim" "" $values }}
    persistentVolumeClaim: {claimName: {{ $values.state.existingClaim }}}
    {{- else if dig "state" "size" "" $values }}
    emptyDir: {sizeLimit: {{ $values.state.size }}}
    {{- else }}
    emptyDir: {}
    {{- end }}
  {{- if $files }}
  - name: secrets
    projected:
      # 0440, for the group of the pod.
      defaultMode: 288
      sources:
        {{- range $files }}
        - secret:
            name: {{ .secret }}
            items:
              - {key: {{ .key | quote }}, path: {{ .file }}}
        {{- end }}
  {{- end }}
  {{- if $mounted }}
  - name: weights
    {{- if eq $weights.mode "init" }}
    emptyDir: {sizeLimit: {{ $weights.init.sizeLimit }}}
    {{- else if eq $weights.mode "claim" }}
    persistentVolumeClaim: {claimName: {{ $weights.claim.existingClaim }}, readOnly: true}
    {{- else }}
    image: {reference: {{ $weights.image.reference | quote }}, pullPolicy: {{ $weights.image.pullPolicy }}}
    {{- end }}
  {{- end }}
  {{- range concat (default list $values.volumes) (default list .volumes) }}
  - {{ toJson . }}
  {{- end }}
{{- end -}}

{{/* The environment of a container of vectide. Takes root, role, files (its secrets), model and perhaps gpu. */}}
{{- define "vectide.env" -}}
- {name: VECTIDE_CONFIG, value: /etc/vectide/vectide.toml}
# An image may have a port of its own in its environment, which wins over the file.
- {name: VECTIDE_HTTP__HOST, value: {{ .root.Values.http.host | quote }}}
- {name: VECTIDE_HTTP__PORT, value: {{ .root.Values.http.port | quote }}}
- {name: HOME, value: /tmp}
- {name: HF_HUB_OFFLINE, value: "1"}
- {name: TOKENIZERS_PARALLELISM, value: "false"}
# Threads come and go with generations: docs/reliability.md.
- {name: MALLOC_ARENA_MAX, value: "2"}
{{- range .files }}
- {name: {{ .setting }}, value: /run/secrets/vectide/{{ .file }}}
{{- end }}
{{- with dig .role "kafkaUsername" "" .root.Values.roles }}
- {name: VECTIDE_KAFKA__SASL_USERNAME, value: {{ . | quote }}}
{{- end }}
{{- if .model }}
# Torch sees the cores of the node, and not the limit.
- name: OMP_NUM_THREADS
  valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: "1"}}
{{- if not (dig "model" "threads" 0 .root.Values.config) }}
- name: VECTIDE_MODEL__THREADS
  valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: "1"}}
{{- end }}
{{- if .gpu }}
- {name: VECTIDE_MODEL__DEVICE, value: cuda}
{{- end }}
{{- end }}
{{- end -}}

{{/* What every container of vectide mounts. Takes root, files and mounted: with weights. */}}
{{- define "vectide.mounts" -}}
- {name: config, mountPath: /etc/vectide, readOnly: true}
- {name: tmp, mountPath: /tmp}
- {name: state, mountPath: /var/lib/vectide}
{{- if .files }}
- {name: secrets, mountPath: /run/secrets/vectide, readOnly: true}
{{- end }}
{{- if .mounted }}
- name: weights
  mountPath: {{ .root.Values.weights.path }}
  readOnly: true
  {{- if and (eq .root.Values.weights.mode "claim") .root.Values.weights.claim.subPath }}
  subPath: {{ .root.Values.weights.claim.subPath }}
  {{- end }}
{{- end }}
{{- end -}}
