package config

import (
	"path/filepath"
	"time"
)

// Config holds every setting. Sub-structs are passed by value to what they configure.
type Config struct {
	Server    Server    `key:"server" usage:"The control plane: API, store, scheduler."`
	Agent     Agent     `key:"agent" usage:"The agent of a compute host."`
	Volumes   Volumes   `key:"volumes" usage:"A volume service: block devices that outlive servers."`
	Migration Migration `key:"migration" usage:"Live migration. Used by the server."`
	Placement Placement `key:"placement" usage:"Which host may take a server. Used by the server."`
	Recovery  Recovery  `key:"recovery" usage:"What is done about hosts that die. Used by the server."`
	Optimize  Optimize  `key:"optimize" usage:"How the fleet arranges itself: consolidation, balance, hosts that sleep. Used by the server."`
	Lab       Lab       `key:"lab" usage:"The lab: real hosts in namespaces of one machine."`
}

// Server configures `godwit server`.
type Server struct {
	APIListen       string        `key:"api_listen" usage:"Address of the OpenStack API. Ignored when systemd passes a socket named \"api\"."`
	APICert         string        `key:"api_cert" usage:"PEM certificate of the API; with api_key it makes the API speak HTTPS."`
	APIKey          string        `key:"api_key" usage:"PEM private key of api_cert."`
	PublicURL       string        `key:"public_url" usage:"URL under which clients reach the API, put into the catalog. Empty: from api_listen."`
	AgentListen     string        `key:"agent_listen" usage:"Address to which agents dial in, mutual TLS."`
	DataDir         string        `key:"data_dir" usage:"Directory of the embedded etcd, of images and of the certificate authority."`
	ImageDir        string        `key:"image_dir" usage:"Directory of image data. Empty: images in data_dir."`
	ImageBandwidth  Size          `key:"image_bandwidth" usage:"Bytes per second at which images are sent to hosts, to all of them together, e.g. 500MiB. 0: unlimited."`
	EtcdEndpoints   []string      `key:"etcd_endpoints" usage:"Client URLs of an external etcd cluster. Empty: etcd runs in this process."`
	EtcdCA          string        `key:"etcd_ca" usage:"PEM certificates that the etcd cluster must chain to. Empty: the system's."`
	EtcdCert        string        `key:"etcd_cert" usage:"PEM client certificate for the etcd cluster."`
	EtcdKey         string        `key:"etcd_key" usage:"PEM private key of etcd_cert."`
	EtcdUser        string        `key:"etcd_user" usage:"User name at an etcd cluster that asks for one."`
	EtcdPassword    string        `key:"etcd_password" secret:"yes" usage:"Password of etcd_user."`
	JoinTokenFile   string        `key:"join_token_file" usage:"File with the secret by which new agents enroll; made, mode 0600, when absent."`
	BootstrapDir    string        `key:"bootstrap_dir" usage:"Where the first start writes the administrator's openrc and clouds.yaml, mode 0600. Empty: data_dir."`
	Region          string        `key:"region" usage:"Region name in the catalog."`
	Name            string        `key:"name" usage:"Name of this server instance in elections and logs. Empty: the host name."`
	TokenLifetime   time.Duration `key:"token_lifetime" usage:"How long a token is valid."`
	GravesMax       int           `key:"graves_max" usage:"How many deleted servers stay visible to administrators."`
	StopGrace       time.Duration `key:"stop_grace" usage:"How long a guest may take to shut down before its power is cut."`
	ShutdownTimeout time.Duration `key:"shutdown_timeout" usage:"How long requests in progress may take when the server is told to stop."`
	MemoryLimit     Size          `key:"memory_limit" usage:"Soft limit of the Go heap (GOMEMLIMIT). 0: none."`
	LogLevel        string        `key:"log_level" usage:"debug, info, warn or error."`
	LogFormat       string        `key:"log_format" usage:"text or json."`
	PprofListen     string        `key:"pprof_listen" usage:"Address of Go's profiler, for developers. Empty: off."`
}

// Agent configures `godwit agent`.
type Agent struct {
	Server           []string `key:"server" usage:"HOST:PORT of the server's agent listener; with standby servers, of each one's. The agent finds the one that leads."`
	JoinTokenFile    string   `key:"join_token_file" usage:"File with the server's join token. Read only while the agent has no certificate."`
	Name             string   `key:"name" usage:"The host's name in the fleet. Empty: the host name."`
	DataDir          string   `key:"data_dir" usage:"Directory of server disks, the image cache, certificates and the agent's journal."`
	DiskMount        string   `key:"disk_mount" usage:"Type of the file system that has to be mounted at DATA_DIR/instances, such as fuse.glusterfs or nfs4: the agent does not start on anything else, so that a directory of server disks that is not mounted is not taken for an empty one. Empty: whatever is there."`
	DiskShared       bool     `key:"disk_shared" usage:"Other hosts have the same directory at DATA_DIR/instances although its file system does not tell so, as FUSE, NFS, CephFS, GFS2, OCFS2 and their like do: the host keeps leases there and fences itself."`
	LibvirtSocket    string   `key:"libvirt_socket" usage:"libvirtd's unix socket."`
	MigrationAddress string   `key:"migration_address" usage:"IP address of this host for libvirt's and QEMU's migration traffic. Empty: the address the server is reached from."`
	TunnelAddress    string   `key:"tunnel_address" usage:"IP address of this host's VXLAN end point. Empty: migration_address."`
	PeerPort         int      `key:"peer_port" usage:"Port at migration_address where other hosts fetch disks of servers that move with their power off, and base images. 0: nothing is served, and nothing fetched from others."`
	PeerBandwidth    Size     `key:"peer_bandwidth" usage:"Bytes per second at which this host reads disks and images from other hosts, and at which it sends images to them, e.g. 200MiB. 0: unlimited."`
	Emulator         string   `key:"emulator" usage:"auto proves KVM by starting a guest; kvm and tcg skip the proof."`
	CPUs             int      `key:"cpus" usage:"CPUs of this host that servers may use, when some are kept for other work. 0: all."`
	CPUModel         string   `key:"cpu_model" usage:"CPU model of guests. Empty: one that every host can give."`

	GuestSilenceMax     time.Duration `key:"guest_silence_max" usage:"A guest whose agent answered before and has not for this long has failed."`
	GuestDiskErrorAfter time.Duration `key:"guest_disk_error_after" usage:"A guest that stands still on an error of a disk for this long, though all that the disk needs answers, has failed."`

	PKIDir      string `key:"pki_dir" usage:"Where the agent installs the certificates that libvirtd and QEMU read."`
	MemoryLimit Size   `key:"memory_limit" usage:"Soft limit of the Go heap (GOMEMLIMIT). 0: none."`
	LogLevel    string `key:"log_level" usage:"debug, info, warn or error."`
	LogFormat   string `key:"log_format" usage:"text or json."`
	PprofListen string `key:"pprof_listen" usage:"Address of Go's profiler, for developers. Empty: off."`
}

// Volumes configures `godwit volumes`.
type Volumes struct {
	Server        []string `key:"server" usage:"HOST:PORT of the server's agent listener; with standby servers, of each one's."`
	JoinTokenFile string   `key:"join_token_file" usage:"File with the server's join token. Read only while the service has no certificate."`
	Name          string   `key:"name" usage:"The service's name in the fleet; no compute host may have it. Empty: the host name followed by -volumes."`
	DataDir       string   `key:"data_dir" usage:"Directory of the service's certificate and its image cache."`
	Backends      Backends `key:"backends" usage:"Directories that volumes are kept in: a list of name, kind (file or gluster), path and direct_io (auto, on or off). As text NAME:KIND:PATH:DIRECT_IO, separated by commas. A volume type chooses one by volume_backend_name."`
	NBDListen     string   `key:"nbd_listen" usage:"IP address or IP:PORT at which compute hosts reach volumes; port 10809 unless given. Empty, or an address of all interfaces: the address the server is reached from is the one hosts are told."`
	NBDTLS        string   `key:"nbd_tls" usage:"require: compute hosts prove who they are, and what they read and write is encrypted. off: whoever reaches nbd_listen and knows an attachment's name reads and writes the volume."`
	Engine        string   `key:"engine" usage:"auto takes io_uring where the kernel allows it, else threads; io_uring and threads insist."`
	ImageCache    Size     `key:"image_cache" usage:"Bytes of images that are kept for further volumes. 0: none is."`
	MetricsListen string   `key:"metrics_listen" usage:"Address of Prometheus metrics. Empty: off."`
	MemoryLimit   Size     `key:"memory_limit" usage:"Soft limit of the Go heap (GOMEMLIMIT). 0: none."`
	LogLevel      string   `key:"log_level" usage:"debug, info, warn or error."`
	LogFormat     string   `key:"log_format" usage:"text or json."`
	PprofListen   string   `key:"pprof_listen" usage:"Address of Go's profiler, for developers. Empty: off."`
}

// Migration configures live migrations.
type Migration struct {
	DowntimeMax         time.Duration `key:"downtime_max" usage:"Longest pause of a guest at the switch that QEMU may aim for."`
	Bandwidth           Size          `key:"bandwidth" usage:"Bytes per second that one migration may use, e.g. 100MiB. 0: unlimited."`
	AutoConverge        bool          `key:"auto_converge" usage:"Slow down a guest that dirties memory faster than it can be copied."`
	PostCopy            bool          `key:"post_copy" usage:"Let force-complete switch to post-copy instead of pausing the guest."`
	ParallelConnections int           `key:"parallel_connections" usage:"QEMU multifd connections of one migration; 1: a single stream."`
	TimeoutPerGiB       time.Duration `key:"timeout_per_gib" usage:"A migration that takes longer than this for each GiB of memory and copied disk (at least 2) meets timeout_action. 0: never."`
	TimeoutAction       string        `key:"timeout_action" usage:"abort or force_complete."`
	OutboundMax         int           `key:"outbound_max" usage:"Migrations that may leave one host at a time; further ones stay queued."`
	InboundMax          int           `key:"inbound_max" usage:"Migrations that may enter one host at a time; further ones stay queued."`
	ClusterMax          int           `key:"cluster_max" usage:"Migrations at a time in the whole fleet. 0: no limit."`
}

// Placement configures the scheduler.
type Placement struct {
	CPURatio  float64 `key:"cpu_ratio" usage:"Virtual CPUs that may be claimed for each physical thread."`
	RAMRatio  float64 `key:"ram_ratio" usage:"Memory that may be claimed for each byte of a host."`
	DiskRatio float64 `key:"disk_ratio" usage:"Disk that may be claimed for each byte of a host."`
	// SameHost is Nova's setting of that name.
	SameHost        bool `key:"allow_resize_to_same_host" usage:"A server that is resized may stay on its host; a cold migration never does."`
	ReservedRAMMiB  int  `key:"reserved_ram_mib" usage:"Memory of each host that servers never get."`
	ReservedDiskGiB int  `key:"reserved_disk_gib" usage:"Disk of each host that servers never get."`
}

// Recovery configures detection of dead hosts and what follows.
type Recovery struct {
	Automatic      bool          `key:"automatic" usage:"Servers that do not say (metadata godwit:recovery, on or off) are started elsewhere when their host is dead."`
	SilenceMax     time.Duration `key:"silence_max" usage:"A host that was not heard for this long is suspect, and others are asked to look. Heartbeats come once a second."`
	DeadAfter      time.Duration `key:"dead_after" usage:"The shortest silence of a host that may be called dead."`
	Witnesses      int           `key:"witnesses" usage:"Hosts that must have looked for a silent one in vain; fewer only when fewer are alive."`
	BrakeShare     float64       `key:"brake_share" usage:"When more than this share of the hosts falls silent within a minute, no further one is called dead until an operator says so (godwit recover allow)."`
	ConcurrencyMax int           `key:"concurrency_max" usage:"Servers of dead hosts that are started elsewhere at a time."`
	SelfFenceAfter time.Duration `key:"self_fence_after" usage:"An agent that reaches neither a server, nor another host, nor its shared storage for this long stops the servers whose disks nothing else guards. 0: never; such servers then need a BMC or an operator's word to start elsewhere."`

	SpareHosts  int  `key:"spare_hosts" usage:"Hosts that may die at once with their servers still finding room on the rest (N+k). When they would not, a warning is given: to whoever boots, resizes or moves a server, in godwit hosts, as a metric and as an event. 0: nothing is judged."`
	SpareRefuse bool `key:"spare_refuse" usage:"Refuse what would leave more servers without room after the loss of spare_hosts hosts, instead of warning."`

	HealGuests      bool          `key:"heal_guests" usage:"Servers that do not say (metadata godwit:recovery, on or off; HA_Enabled, True or False) are restarted when their guest fails: QEMU ends, the kernel panics, the watchdog stops it, a disk keeps failing, the guest agent falls silent."`
	HealRestartsMax int           `key:"heal_restarts_max" usage:"Restarts of a failing guest on its own host within heal_window; then it is started once on another host as far as its disks allow, then a person is asked."`
	HealWindow      time.Duration `key:"heal_window" usage:"Time within which the restarts of a failing guest are counted."`
	HealBackoff     time.Duration `key:"heal_backoff" usage:"Pause before the second restart of a failing guest; each further pause is twice as long, up to five minutes."`
}

// Optimize configures the optimiser.
type Optimize struct {
	Automation    string        `key:"automation" usage:"manual: plans are made when asked. partial: they are also made every step and recommended. full: they are also started. A server's metadata godwit:automation overrides it."`
	Goal          string        `key:"goal" usage:"consolidate: few hosts awake, none short. balance: load alike on all hosts."`
	Schedule      []string      `key:"schedule" usage:"Goals by time of day, local time, such as 22:00-06:00=consolidate; at other times goal holds."`
	Strategy      string        `key:"strategy" usage:"Policy that consolidates: godwit, neat or OVERLOAD-SELECTION-PARAMETER, as in godwit simulate."`
	Step          time.Duration `key:"step" usage:"Time between two plans, and between two entries of what is remembered of a server's load."`
	Telemetry     time.Duration `key:"telemetry" usage:"How often hosts say what they and their servers use. 0: never; nothing is then planned."`
	MovesMax      int           `key:"moves_max" usage:"Migrations of one plan. A host with more servers than that is emptied by a plan of its own."`
	Window        time.Duration `key:"window" usage:"No server moves twice within this time."`
	Horizon       time.Duration `key:"horizon" usage:"A host's sleep must pay for its moves and its waking within this time."`
	GainFactor    float64       `key:"gain_factor" usage:"How many times its cost a move must gain."`
	OverloadGoal  float64       `key:"overload_goal" usage:"Share of the awake hosts' time that may be short of CPU; more makes the optimiser keep more free. 0: no goal."`
	FailoverHosts int           `key:"failover_hosts" usage:"Hosts that may fail at once with all servers still having room on those awake."`
	Reserve       float64       `key:"reserve" usage:"Share of the awake hosts' CPU that stays free of what is expected."`
	Sleep         bool          `key:"sleep" usage:"Empty hosts may be put to sleep, if they were proven to wake."`
	SleepMode     string        `key:"sleep_mode" usage:"poweroff, suspend, or bmc: its BMC (IPMI, Redfish) has the host shut itself down, where there is one."`
	AwakeMin      time.Duration `key:"awake_min" usage:"A host that woke stays awake at least this long."`
	Accounting    time.Duration `key:"accounting" usage:"How often what hosts and servers used is written. It is what a leader that dies may lose."`
	WakeValid     time.Duration `key:"wake_valid" usage:"How long a wake that was seen proves that a host wakes."`
	PowerModel    string        `key:"power_model" usage:"What a host draws: g4, g5 (the paper's), IDLE,FULL or eleven numbers of watts at 0, 10, ... 100 % CPU. An aggregate's metadata godwit:power_model overrides it."`
}

// Lab configures `godwit lab`.
type Lab struct {
	Name    string `key:"name" usage:"Name of the lab."`
	Hosts   int    `key:"hosts" usage:"Number of compute hosts."`
	Storage int    `key:"storage" usage:"Number of nodes that run a volume service, each on an XFS file of its own."`
	Gluster bool   `key:"gluster" usage:"Four more nodes with GlusterFS, whose volume all compute hosts keep server disks on."`
	Shared  bool   `key:"shared" usage:"All compute hosts have one directory of server disks, of this machine: what a cluster file system gives real hosts."`
	BMC     bool   `key:"bmc" usage:"Give each compute host a BMC (IPMI on the management network) whose power commands are the lab's. The server is told of them, and fences dead hosts by them."`
	APIPort int    `key:"api_port" usage:"Port on 127.0.0.1 of the lab's API; 0 takes a free one."`
}

// Default returns the settings of an empty configuration.
func Default() Config {
	return Config{
		Server: Server{
			APIListen: "127.0.0.1:8774", AgentListen: "0.0.0.0:8779", DataDir: "/var/lib/godwit",
			JoinTokenFile: "/etc/godwit/join-token", Region: "RegionOne",
			TokenLifetime: time.Hour, GravesMax: 1000, StopGrace: time.Minute, ShutdownTimeout: 10 * time.Second, LogLevel: "info", LogFormat: "text",
		},
		Agent: Agent{
			JoinTokenFile: "/etc/godwit/join-token", DataDir: "/var/lib/godwit/agent",
			LibvirtSocket: "/var/run/libvirt/libvirt-sock", PeerPort: 10810, Emulator: "auto", PKIDir: "/etc/pki",
			GuestSilenceMax: time.Minute, GuestDiskErrorAfter: 15 * time.Second,
			LogLevel: "info", LogFormat: "text",
		},
		Volumes: Volumes{
			JoinTokenFile: "/etc/godwit/join-token", DataDir: "/var/lib/godwit/volumes",
			Backends: Backends{{Name: "main", Kind: kindDefault, Path: "/var/lib/godwit/volumes/main", DirectIO: directIODefault}},
			NBDTLS:   "require", Engine: "auto", ImageCache: 8 << 30, LogLevel: "info", LogFormat: "text",
		},
		// Nova aims for 500 ms, QEMU for 300 ms; 800 s per GiB and "abort" are Nova's. Two each way keep both ends of a link busy while one
		// migration prepares or switches; more only makes each slower.
		Migration: Migration{
			DowntimeMax: 300 * time.Millisecond, AutoConverge: true, ParallelConnections: 1,
			TimeoutPerGiB: 800 * time.Second, TimeoutAction: "abort", OutboundMax: 2, InboundMax: 2,
		},
		// Memory is not overcommitted: a host that swaps hurts every guest on it. Nova's 16 virtual CPUs per thread is for idle guests; 4 is
		// where contention begins to show.
		Placement: Placement{CPURatio: 4, RAMRatio: 1, DiskRatio: 1, ReservedRAMMiB: 512},
		// The bounds of package liveness: a power cut is known after about three seconds. 20 s of complete isolation is no network's hiccup.
		Recovery: Recovery{
			Automatic: true, SilenceMax: 2200 * time.Millisecond, DeadAfter: 3 * time.Second, Witnesses: 2, BrakeShare: 1.0 / 3, ConcurrencyMax: 8,
			SelfFenceAfter: 20 * time.Second, SpareHosts: 1,

			HealGuests: true, HealRestartsMax: 3, HealWindow: time.Hour, HealBackoff: 10 * time.Second,
		},
		Optimize: Optimize{
			Automation: "manual", Goal: "consolidate", Strategy: "godwit", Step: 5 * time.Minute, Telemetry: 10 * time.Second, MovesMax: 10, Window: 30 * time.Minute,
			Horizon: 30 * time.Minute, GainFactor: 1.5, FailoverHosts: 1, Reserve: 0.1, Sleep: true, SleepMode: "poweroff", AwakeMin: 10 * time.Minute,
			Accounting: time.Minute, WakeValid: 30 * 24 * time.Hour, PowerModel: "g5",
		},
		Lab: Lab{Name: "default", Hosts: 3, Storage: 1},
	}
}

// Images returns the directory of image data.
func (s Server) Images() string {
	if s.ImageDir != "" {
		return s.ImageDir
	}
	return filepath.Join(s.DataDir, "images")
}

// Bootstrap returns the directory of the administrator's first credentials.
func (s Server) Bootstrap() string {
	if s.BootstrapDir != "" {
		return s.BootstrapDir
	}
	return s.DataDir
}
