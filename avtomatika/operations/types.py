"""The names of the queue: what kinds of tasks there are, and where one stands."""

from __future__ import annotations

from enum import StrEnum


class TaskStatus(StrEnum):
    """Where a queue task stands. Six are set by the operation itself, while it runs."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    VALIDATING = "validating"
    PREPARING = "preparing"
    UPLOADING = "uploading"
    DOWNLOADING = "downloading"
    BUILDING = "building"
    PULLING = "pulling"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"

    @property
    def is_final(self) -> bool:
        return self in (TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED, TaskStatus.TIMEOUT)

    @property
    def is_intermediate(self) -> bool:
        """Set by an operation: it runs, and this is what it does."""
        return self in _INTERMEDIATE


_INTERMEDIATE = frozenset(
    {
        TaskStatus.VALIDATING,
        TaskStatus.PREPARING,
        TaskStatus.UPLOADING,
        TaskStatus.DOWNLOADING,
        TaskStatus.BUILDING,
        TaskStatus.PULLING,
    }
)


class TaskType(StrEnum):
    """The operations that this package brings; those of other packages are known by their names alone."""

    SCP_UPLOAD = "scp_upload"
    SCP_DOWNLOAD = "scp_download"
    SCP_SYNC = "scp_sync"
    SCP_LIST = "scp_list"
    SSH_EXECUTE = "ssh_execute"
    SSH_TUNNEL = "ssh_tunnel"
    SSH_COPY = "ssh_copy"
    FTP_UPLOAD = "ftp_upload"
    FTP_DOWNLOAD = "ftp_download"
    FTP_LIST = "ftp_list"
    FTP_DELETE = "ftp_delete"
    FTP_MKDIR = "ftp_mkdir"
    FTP_RENAME = "ftp_rename"
    FTP_INFO = "ftp_info"
    DOCKER_PUSH = "docker_push"
    DOCKER_BUILD = "docker_build"
    DOCKER_PULL = "docker_pull"
    DOCKER_RUN = "docker_run"
    DOCKER_STOP = "docker_stop"
    DOCKER_REMOVE = "docker_remove"
    DOCKER_TAG = "docker_tag"
    K8S_DEPLOY = "k8s_deploy"
    K8S_SCALE = "k8s_scale"
    K8S_DELETE = "k8s_delete"
    K8S_GET = "k8s_get"
    K8S_LOGS = "k8s_logs"
    K8S_EXEC = "k8s_exec"
    K8S_DEPLOYMENT_CREATE = "k8s_deployment_create"
    K8S_POD_CREATE = "k8s_pod_create"
    K8S_POD_STATUS = "k8s_pod_status"
    K8S_POD_DELETE = "k8s_pod_delete"
    K8S_SERVICE_CREATE = "k8s_service_create"
    K8S_CONFIGMAP_CREATE = "k8s_configmap_create"
    K8S_NAMESPACE_CREATE = "k8s_namespace_create"
    KIND_CLUSTER_CREATE = "kind_cluster_create"
    KIND_CLUSTER_DELETE = "kind_cluster_delete"
    KIND_CLUSTER_LIST = "kind_cluster_list"
    KIND_GET_NODES = "kind_get_nodes"
    KIND_LOAD_IMAGE = "kind_load_image"
    VAST_CREATE = "vast_create"
    VAST_DESTROY = "vast_destroy"
    VAST_LIST = "vast_list"
    VAST_SEARCH = "vast_search"
    GITHUB_CREATE_REPO = "github_create_repo"
    GITHUB_LIST_REPOS = "github_list_repos"
    GITHUB_CLONE = "github_clone"
    GITHUB_PUSH = "github_push"
    OLLAMA_PULL = "ollama_pull"
    OLLAMA_RUN = "ollama_run"
    OLLAMA_LIST = "ollama_list"
    OLLAMA_STATUS = "ollama_status"
    SYSTEM_MONITOR = "system_monitor"
    SYSTEM_BACKUP = "system_backup"
    SYSTEM_UPDATE = "system_update"
    SYSTEM_CLEANUP = "system_cleanup"
    CUSTOM_SCRIPT = "custom_script"
    CUSTOM_COMMAND = "custom_command"
    CUSTOM_WEBHOOK = "custom_webhook"
    DATA_PROCESS = "data_process"
    DATA_ANALYZE = "data_analyze"
    DATA_EXPORT = "data_export"
    DATA_IMPORT = "data_import"
    NETWORK_TEST = "network_test"
    NETWORK_SCAN = "network_scan"
    NETWORK_MONITOR = "network_monitor"
