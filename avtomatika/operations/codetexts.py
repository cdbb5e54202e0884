"""What is said of each error code: its meaning, and below it what helps. Read by `codes.py`."""

from __future__ import annotations

TEXTS = """
SCP_CONNECTION_FAILED: The host could not be reached, or the connection broke during a transfer
- Check that the host is up, and that its address and port in the inventory are right: `avtomatika queue push network_test`
- A broken transfer goes on where it stopped: try it again
SCP_AUTHENTICATION_FAILED: The host did not accept the credential
- Check username and key of the credential, and that the public key is in authorized_keys of that user on the host
- Check that the worker may read the key's file, and that its passphrase is set there
SCP_FILE_NOT_FOUND: The file or directory that was to be copied is not there
- Check the path: local paths are those of the worker, not of whoever pushed the task
- List what is there with scp_list
SCP_PERMISSION_DENIED: A file could not be read or written for lack of rights
- Give the user on the host, or that of the worker, the right to the file and to its directory
- Choose a path beneath a directory that this user owns
SCP_TRANSFER_FAILED: A transfer began and did not come to its end
- Try it again: what has arrived is kept, and only the rest is sent
- See the task's log for the file at which it stopped
SCP_DISK_SPACE: There is too little free space for the files at their destination
- Free some space there, or choose a path on another file system
- A quota of the user may be used up although the disk is not
SCP_CHECKSUM_MISMATCH: A file arrived, but not as it was: its checksum differs
- Check whether something wrote to the file during the transfer, and try it again
- Where it happens again and again, look for a faulty disk or memory
SSH_CONNECTION_FAILED: The host could not be reached over SSH
- Check that sshd runs there, and that address, port and jump host in the inventory are right
- Where the two sides agree on no algorithm, bring the host's sshd up to date
SSH_AUTHENTICATION_FAILED: The host did not accept the credential
- Check username and key of the credential, and authorized_keys on the host
- See the host's own log of sshd for why it refused: it does not tell the client
SSH_COMMAND_FAILED: The command ran and ended with an exit code that means failure
- See exit_code and stderr in the task's error_details
- Name further exit codes that are fine in ok_codes
SSH_TIMEOUT: The host or the command did not answer within the operation's own time
- Raise timeout in the params, if the command needs longer
- Check whether the command waits for input that nobody gives
SSH_HOST_KEY_MISMATCH: The host showed another key than the one that is pinned, or one that nobody has pinned
- If the host was set up anew, put its new key into host_keys of [hosts.…]; get the key from the host itself, not over the network
- If nobody has changed the host, somebody may stand between: do not connect
FTP_CONNECTION_FAILED: The FTP server could not be reached, or the connection broke
- Check address and port, and whether a firewall lets passive data connections through
- Try it again: what has arrived is kept
FTP_AUTHENTICATION_FAILED: The FTP server did not accept user and password
- Check username and password of the credential on the worker
- Some servers ask for TLS before a login: do not switch it off
FTP_FILE_NOT_FOUND: The file or directory is not on the server, or not on the worker
- List the directory with ftp_list; names differ by upper and lower case
- Local paths are those of the worker
FTP_PERMISSION_DENIED: The server lets this user not read or write there
- Ask for the right on the server, or use a directory of the user's own
- Check that the file on the worker may be read and written by the worker's user
FTP_UPLOAD_FAILED: An upload began and did not come to its end
- Try it again: it goes on where it stopped
- Check free space and quota on the server
FTP_DOWNLOAD_FAILED: A download began and did not come to its end
- Try it again: it goes on where it stopped
- Check free space on the worker
FTP_RESUME_FAILED: What is there of the file does not fit the other side's: it cannot be gone on with
- Push it again with overwrite, so that it begins anew
- Check whether the file has changed on one side meanwhile
FTP_INVALID_PATH: The path is no name that may be used on the server
- Leave line ends and control characters out of it, and write it from the root
- Stay beneath the remote_roots of the policy
DOCKER_IMAGE_NOT_FOUND: The image is not there: not on the worker, or not in the registry
- Check name and tag: without a tag it is latest
- Build or pull the image first, on the worker that is to push it
DOCKER_AUTHENTICATION_FAILED: The registry did not accept the credential
- Check username and password or token of the credential for this registry
- Tokens expire: make a new one
DOCKER_PERMISSION_DENIED: The registry, or the Docker daemon, does not let this user do that
- Ask for the right to push to this repository
- Put the worker's user into the group of the daemon's socket, or give it a context of its own
DOCKER_NETWORK_ERROR: The daemon or the registry could not be reached
- Check that the Docker daemon runs on the worker: `docker info`
- Check name resolution and proxy settings of the daemon
DOCKER_REGISTRY_ERROR: The registry answered with an error of its own
- Try it again later; look at the registry's status page or log
- A limit on pulls may be used up: log in, or use a mirror
DOCKER_BUILD_FAILED: A step of the build failed
- See the last lines of the task's log for the step, and run that one by hand
- Check build_args, and that the files it copies are in context_path
DOCKER_PUSH_FAILED: The image did not reach the registry
- See the message for the layer that failed, and try it again: layers that are there are not sent anew
- Check that the repository exists, and that its quota is not used up
DOCKER_PULL_FAILED: The image could not be fetched
- Check that there is an image for this platform
- Check free space where the daemon keeps its images
DOCKER_CONTAINER_NOT_FOUND: There is no such container on the worker's daemon
- List them with `docker ps -a` on that worker: each worker may have a daemon of its own
- It may have been removed at its end: run it without remove
DOCKER_CONTAINER_ALREADY_RUNNING: A container of this name is there already
- Stop and remove it first, or choose another name
- Leave the name out: the daemon makes one
DOCKER_CONTAINER_STOPPED: The container has ended when it should run
- See its log and exit code in error_details
- Check its command and environment by a run on the worker itself
K8S_CLUSTER_UNAVAILABLE: The cluster's API does not answer
- Check the server's address in the kubeconfig, and that the worker reaches it
- Try it again once the control plane is back
K8S_AUTHENTICATION_FAILED: The cluster did not accept the credential, or does not allow this
- Check the context of the kubeconfig, and whether its token or certificate has expired
- Ask for the role that allows this: `kubectl auth can-i`
K8S_RESOURCE_NOT_FOUND: There is no such resource in this namespace
- Check name, kind and namespace with k8s_get
- It may not have been made yet: apply its manifest first
K8S_RESOURCE_ALREADY_EXISTS: A resource of this name is there already
- Choose another name, delete the old one, or apply instead of create
- Check that you are in the right namespace
K8S_NAMESPACE_NOT_FOUND: There is no such namespace
- Make it with k8s_namespace_create
- Check the spelling, and the context of the kubeconfig
K8S_POD_FAILED: The pod did not come up, or has ended with a failure
- See its events and k8s_logs: most often the image cannot be pulled, or the command fails
- Check that a node has the memory, CPU and GPUs that it asks for
K8S_DEPLOYMENT_FAILED: The deployment did not become available in time
- See the events of its pods with k8s_get, and their logs
- Raise the timeout, if they only start slowly
K8S_SERVICE_FAILED: The service could not be made or changed
- Check that its ports are free, and that its selector fits the pods' labels
- Fields such as the cluster IP cannot be changed: delete it and make it anew
K8S_CONFIGMAP_FAILED: The config map could not be made or changed
- Keep it below 1 MiB, with keys of letters, digits, dots, dashes and underscores
- An immutable one cannot be changed: make one of another name
K8S_SECRET_FAILED: The secret could not be made or read
- Check that the role allows secrets in this namespace
- Check that what refers to it names an existing key
K8S_API_ERROR: The cluster's API refused the call
- See status and message in error_details: they name the field
- Check that the cluster serves this version of the API
K8S_CONFIG_ERROR: The kubeconfig cannot be read, or has no such context
- Check the credential's file on the worker, and the name of the context
- Test it there with `kubectl config get-contexts`
KIND_CLUSTER_NOT_FOUND: There is no Kind cluster of this name on the worker
- List them with kind_cluster_list: each worker has its own
- Make it with kind_cluster_create
KIND_CLUSTER_CREATE_FAILED: The cluster could not be made
- Check that Docker runs on the worker, and that it has memory and disk space left
- Delete what is left of an earlier try with kind_cluster_delete
KIND_CLUSTER_DELETE_FAILED: The cluster could not be deleted
- Check that Docker runs on the worker
- Remove its containers by hand: `docker ps --filter label=io.x-k8s.kind.cluster`
KIND_LOAD_IMAGE_FAILED: The image could not be loaded into the cluster
- Check that the image is on the worker's daemon: pull or build it first
- Check free space in the cluster's nodes
KIND_TIMEOUT: The cluster was not ready in time
- Raise wait: the first start fetches the node's image
- Check memory and CPU of the worker
KIND_CONFIG_ERROR: The cluster's configuration does not fit
- Check it against Kind's documentation: kind, apiVersion, nodes
- Check that the file lies beneath the local_roots of the policy
VAST_API_ERROR: The API of Vast.ai answered with an error, or not at all
- Try it again later
- See status and message in error_details
VAST_AUTHENTICATION_FAILED: Vast.ai did not accept the API key
- Check the token of the credential; make a new key on the account's page
- A key with restricted rights may lack this one
VAST_INSTANCE_NOT_FOUND: There is no such instance in the account
- List them with vast_list
- It may have been destroyed already
VAST_INSTANCE_CREATION_FAILED: The offer could not be rented
- It may be taken: search again with vast_search, and choose another
- Check the image's name, and that the disk is large enough for it
VAST_INSTANCE_DESTRUCTION_FAILED: The instance could not be destroyed
- Try it again, and look at the account's page: an instance that goes on costs money
- Check that the key may manage instances
VAST_QUOTA_EXCEEDED: The account may have no more of these, or asks too often
- Destroy instances that nobody needs
- Wait a minute before the next call
VAST_PAYMENT_REQUIRED: The account has no credit left
- Add credit on the billing page, then try the task again
- Check for instances that use it up
GITHUB_API_ERROR: GitHub answered with an error, or not at all
- Try it again later; see githubstatus.com
- See status and message in error_details
GITHUB_AUTHENTICATION_FAILED: GitHub did not accept the token, or it lacks a right
- Check that the token has not expired, and its scopes or permissions for this repository
- For an organisation with SSO, authorise the token there
GITHUB_REPO_NOT_FOUND: There is no such repository, or the token does not see it
- Write it as owner/name, and check the spelling
- A private one needs a token with access to it
GITHUB_REPO_ALREADY_EXISTS: The account has a repository of this name
- Choose another name, or use the one that is there
- A renamed repository keeps its old name for a while
GITHUB_BRANCH_NOT_FOUND: There is no such branch
- Check the name: the default branch may be main or master
- Push the branch before something refers to it
GITHUB_MERGE_CONFLICT: The remote branch has changes that yours does not
- Pull or rebase, resolve what conflicts, then push again
- Push to another branch, and open a pull request
GITHUB_RATE_LIMIT_EXCEEDED: Too many calls to GitHub in this hour
- Wait for the time that error_details name, then try it again
- Use a token: without one the limit is 60 an hour
OLLAMA_MODEL_NOT_FOUND: The model is not on the worker, or not in the library
- Pull it first with ollama_pull
- Check name and tag with ollama_list
OLLAMA_SERVICE_UNAVAILABLE: The Ollama server does not answer
- Start it on the worker: `ollama serve`
- Check the address in the policy's options
OLLAMA_INFERENCE_FAILED: The model did not answer the prompt
- See the message: the prompt may be longer than the model's context
- Try a smaller model, or fewer tokens
OLLAMA_MODEL_DOWNLOAD_FAILED: The model could not be downloaded
- Try it again: what has arrived is kept
- Check free disk space on the worker, and its way to the registry
OLLAMA_MEMORY_INSUFFICIENT: The model needs more memory than the worker has
- Choose a smaller model, or a more quantised one
- Unload other models, or use a worker with more memory
OLLAMA_GPU_UNAVAILABLE: The worker's GPU cannot be used
- Check driver and device with `nvidia-smi` on the worker
- Run it on the CPU, or on another worker
SYSTEM_TIMEOUT: The task did not end within its timeout_seconds
- Push it with a longer timeout_seconds, if it needs that
- See in its log how far it came, and what it waited for
SYSTEM_RESOURCE_LIMIT: A limit of the machine or of the policy is reached
- Ask for less: fewer files, a smaller range, a shorter time
- Raise the limit in the policy's options, if that is meant
SYSTEM_DISK_SPACE: The worker's disk has too little free space
- Free some: system_cleanup shows with dry_run what it would delete
- Choose a path on another file system
SYSTEM_MEMORY_LIMIT: The worker has too little memory for it
- Ask for less at once, or use a worker with more memory
- Run fewer tasks on that worker at the same time
SYSTEM_CPU_LIMIT: The worker's CPU time for it is used up
- Raise the limit, or part the work
- Use a worker with more cores
SYSTEM_PROCESS_KILLED: The worker died under the task, more than once, or its process was killed
- Look at the worker's log and the kernel's for out-of-memory kills
- Try it once more on another worker; if it dies again, the task is the cause
SYSTEM_SERVICE_UNAVAILABLE: A service of the machine that it needs does not run
- See the message for which one, and start it on the worker
- Try the task again afterwards
SYSTEM_PERMISSION_DENIED: The worker's user may not do that
- Give that user the right; do not run the worker as root
- Name paths beneath the local_roots of the policy
NETWORK_CONNECTION_FAILED: The other side refused the connection, or cannot be reached
- Check that something listens on that port, and on that address
- Check the route and the firewalls between the worker and the host
NETWORK_TIMEOUT: The other side did not answer in time
- A firewall that drops packets looks like this: check the rules on both sides
- Raise timeout, where the line is slow
NETWORK_DNS_ERROR: The name cannot be resolved
- Check the spelling, and the worker's DNS servers
- Put the address into the inventory
NETWORK_PROXY_ERROR: The proxy refused the connection, or cannot be reached
- Check the proxy's address and credential on the worker
- Name the host in NO_PROXY, if it is reached without one
NETWORK_FIREWALL_BLOCKED: The connection is refused on its way
- Ask for a rule from the worker's address to this host and port
- Check by the same test from another worker
NETWORK_SSL_ERROR: The TLS handshake failed, or the certificate does not fit
- Check the certificate's dates, its names, and that its issuer is known to the worker
- Check that both sides have a TLS version in common
DATA_FILE_NOT_FOUND: The data file is not there
- Check the path: it is one of the worker, beneath the local_roots of the policy
- Fetch the file first with scp_download or ftp_download
DATA_FILE_CORRUPTED: The file is broken: it ends too early, or its checksum is wrong
- Fetch or make it anew
- Check whether it was still being written
DATA_FORMAT_INVALID: The file is not in the format that was named
- Check format against what the file is; its name may deceive
- Open its first lines, and check separator and header
DATA_SIZE_TOO_LARGE: The data are larger than the limit
- Part them, or filter them before
- Raise the limit in the policy's options, if the worker has the memory
DATA_ENCODING_ERROR: The text is not in the encoding that was named
- Name the right encoding, such as latin-1 or utf-16
- Convert the file to UTF-8 first
DATA_PARSING_FAILED: A row or value cannot be read
- See error_details for row and column, and correct it at its source
- Say what is to become of bad rows, if they may be left out
VALIDATION_INVALID_PARAMS: A parameter is unknown, or has a value that does not fit
- See misfits in error_details: each names its field and what fits
- `avtomatika queue operations TYPE` shows what an operation takes
VALIDATION_MISSING_REQUIRED: A parameter that must be there is missing
- Add it: misfits in error_details name it
- `avtomatika queue operations TYPE` shows what an operation takes
VALIDATION_INVALID_FORMAT: A parameter is not written as it has to be
- See misfits in error_details for the pattern that it must fit
- Leave out spaces and control characters
VALIDATION_OUT_OF_RANGE: A number is too small or too large
- See misfits in error_details for the bounds
- Check the unit: times are seconds, sizes bytes
VALIDATION_CONSTRAINT_VIOLATION: The policy does not allow it, or params hold what may not be in them
- The message names the entry of the policy to change, if it is meant
- Put secrets into a credential, and name that
QUEUE_FULL: The queue takes no more tasks of this client now
- Wait until some of them have ended, then push it again
- Cancel those that nobody needs
QUEUE_TASK_NOT_FOUND: There is no such task, or it is another client's
- Check the id: `avtomatika queue status` lists the newest ones
- Ended tasks are forgotten after JOB_RETENTION_SECONDS, or when they are removed
QUEUE_TASK_ALREADY_RUNNING: The task runs already
- Wait for its end, or cancel it first
- See where it stands with queue_task_status
QUEUE_TASK_DUPLICATE: This idempotency key belongs to another task
- Use a new key for a new task
- Send the very same body again to get the first task
QUEUE_PRIORITY_INVALID: A priority goes from 0 to 10
- Give a number from 0 to 10; the highest goes first
- Leave it out for 0
CUSTOM_SCRIPT_FAILED: The script ran and ended with a failure
- See exit_code and stderr in error_details
- Run it on the worker by hand, as the worker's user
CUSTOM_COMMAND_FAILED: The command ran and ended with a failure
- See exit_code and stderr in error_details
- Check that the program is on the worker's PATH
CUSTOM_WEBHOOK_FAILED: The web hook did not answer with success
- See status and body in error_details
- Check the URL, and that the other side takes this method
CUSTOM_VALIDATION_FAILED: What came back is not what the task says it should be
- See error_details for what was expected, and what came
- Correct the expectation, or whatever made the answer
UNKNOWN_ERROR: Something went wrong that nobody has foreseen
- See the task's log, and that of its worker, for the exception
- Try it again once; report it, if it happens again
INTERNAL_ERROR: The engine itself could not go on with the task
- See the orchestrator's log, and the task's history: `avtomatika job history ID`
- Report it with both
EXTERNAL_SERVICE_ERROR: A service that it needs answered with an error
- Try it again later
- See error_details for the service and its answer
CONFIGURATION_ERROR: A setting or a file of the worker does not fit
- The message names it: correct OPERATIONS_CONFIG_PATH or the worker's environment
- A changed file is read again at once: try the task again afterwards
"""
