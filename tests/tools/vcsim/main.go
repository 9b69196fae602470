// Command vcsim serves govmomi's simulated vCenter until it gets SIGINT or SIGTERM. Once it answers, its URL, without the
// password, is the one line on stdout.
package main

import (
	"crypto/tls"
	"flag"
	"fmt"
	"log"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/vmware/govmomi/simulator"

	_ "github.com/vmware/govmomi/lookup/simulator"
	_ "github.com/vmware/govmomi/pbm/simulator"
	_ "github.com/vmware/govmomi/sts/simulator"
	_ "github.com/vmware/govmomi/vapi/simulator"
)

func main() {
	log.SetFlags(0)
	model := simulator.VPX()
	listen := flag.String("listen", "127.0.0.1:0", "address and port; port 0 takes a free one")
	user := flag.String("user", "user", "the only user")
	password := flag.String("password", "pass", "its password")
	useTLS := flag.Bool("tls", true, "serve HTTPS, with a certificate of its own")
	dir := flag.String("dir", "", "existing folder under which datastores get their folders (default: the system's for temporary files)")
	methodDelay := flag.String("method-delay", "", "delays of single methods, like PowerOnVM_Task:100,CloneVM_Task:500 (milliseconds)")
	flag.IntVar(&model.Datacenter, "dc", model.Datacenter, "datacenters")
	flag.IntVar(&model.Cluster, "cluster", model.Cluster, "clusters for each datacenter")
	flag.IntVar(&model.ClusterHost, "host", model.ClusterHost, "hosts for each cluster")
	flag.IntVar(&model.Host, "standalone-host", model.Host, "hosts outside clusters for each datacenter")
	flag.IntVar(&model.Machine, "vm", model.Machine, "virtual machines for each cluster and each standalone host")
	flag.IntVar(&model.Datastore, "ds", model.Datastore, "datastores")
	flag.IntVar(&model.DelayConfig.Delay, "delay", 0, "milliseconds before each answer")
	flag.Float64Var(&model.DelayConfig.DelayJitter, "delay-jitter", 0, "its coefficient of variation")
	flag.Parse()

	if *methodDelay != "" {
		model.DelayConfig.MethodDelay = map[string]int{}
		for _, pair := range strings.Split(*methodDelay, ",") {
			name, value, _ := strings.Cut(pair, ":")
			ms, err := strconv.Atoi(value)
			if err != nil {
				log.Fatalf("-method-delay %s: %v", pair, err)
			}
			model.DelayConfig.MethodDelay[name] = ms
		}
	}
	if *dir != "" {
		os.Setenv("TMPDIR", *dir) // where the model makes its folder
	}
	if err := model.Create(); err != nil {
		log.Fatal(err)
	}
	defer model.Remove()
	model.Service.RegisterEndpoints = true
	model.Service.Listen = &url.URL{Host: *listen, User: url.UserPassword(*user, *password)}
	if *useTLS {
		model.Service.TLS = new(tls.Config)
	}
	server := model.Service.NewServer()
	defer server.Close()
	shown := *server.URL
	shown.User = nil
	fmt.Println(shown.String())

	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGINT, syscall.SIGTERM)
	<-end
}
