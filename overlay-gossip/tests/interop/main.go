// A peer of other make: memberlist from Debian, driven by lines on standard input, telling lines on standard output.
package main

import (
	"bufio"
	"encoding/hex"
	"flag"
	"fmt"
	"io/ioutil"
	"log"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

var (
	out  sync.Mutex
	meta = "m1"
)

func say(format string, args ...interface{}) {
	out.Lock()
	defer out.Unlock()
	fmt.Printf(format+"\n", args...)
}

type peer struct{ list *memberlist.Memberlist }

func (p *peer) NodeMeta(limit int) []byte                  { return []byte(meta) }
func (p *peer) NotifyMsg(b []byte)                         { say("message %s", b) }
func (p *peer) GetBroadcasts(overhead, limit int) [][]byte { return nil }
func (p *peer) LocalState(join bool) []byte                { return []byte("state of go") }
func (p *peer) MergeRemoteState(buf []byte, join bool)     {}
func (p *peer) NotifyJoin(n *memberlist.Node)              { say("join %s %s", n.Name, n.Meta) }
func (p *peer) NotifyLeave(n *memberlist.Node)             { say("leave %s", n.Name) }
func (p *peer) NotifyUpdate(n *memberlist.Node)            { say("update %s %s", n.Name, n.Meta) }

func main() {
	port := flag.Int("port", 0, "")
	key := flag.String("key", "", "")
	flag.Parse()
	config := memberlist.DefaultLANConfig()
	config.Name = "go1"
	config.BindAddr = "127.0.0.1"
	config.BindPort = *port
	config.AdvertisePort = *port
	config.ProbeInterval = 300 * time.Millisecond
	config.ProbeTimeout = 100 * time.Millisecond
	config.PushPullInterval = time.Second
	config.Logger = log.New(ioutil.Discard, "", 0)
	if os.Getenv("PEER_LOG") != "" {
		config.Logger = log.New(os.Stderr, "go: ", log.Lmicroseconds)
	}
	if *key != "" {
		secret, err := hex.DecodeString(*key)
		check(err)
		config.SecretKey = secret
	}
	p := &peer{}
	config.Delegate = p
	config.Events = p
	list, err := memberlist.Create(config)
	check(err)
	p.list = list
	say("ready")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.SplitN(lines.Text(), " ", 2)
		switch words[0] {
		case "join":
			count, err := list.Join([]string{words[1]})
			say("joined %d %v", count, err)
		case "meta":
			meta = words[1]
			check(list.UpdateNode(time.Second))
		case "send", "reliable":
			for _, node := range list.Members() {
				if node.Name == "go1" {
					continue
				}
				if words[0] == "send" {
					check(list.SendBestEffort(node, []byte(words[1])))
				} else {
					check(list.SendReliable(node, []byte(strings.Repeat(words[1], 1000))))
				}
			}
		case "quit":
			check(list.Leave(2 * time.Second))
			say("left")
			return
		}
	}
}

func check(err error) {
	if err != nil {
		say("error %v", err)
	}
}
