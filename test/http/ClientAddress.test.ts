import * as fc from "fast-check"
import { isIP } from "node:net"
import { assert, describe, it } from "vitest"
import * as ClientAddress from "../../packages/http/src/ClientAddress.ts"

const trusted = ["10.0.0.0/8", "192.168.1.1", "fd00::/8", "::1"]
const behind = ClientAddress.make({ trusted })
const forwarded = ClientAddress.make({ trusted, header: "forwarded" })
const xff = (value: string) => ({ "x-forwarded-for": value })

// addresses of nobody who is trusted: 203.0.113.0/24 and 2001:db8::/32
const strangers = fc.oneof(
  fc.integer({ min: 0, max: 255 }).map((last) => `203.0.113.${last}`),
  fc.integer({ min: 1, max: 0xffff }).map((last) => `2001:db8::${last.toString(16)}`)
)
const proxies = fc.array(
  fc.constantFrom("10.1.2.3", "192.168.1.1", "fd00::7", "[fd00::7]:443", "10.0.0.1:80", "::ffff:10.9.9.9"),
  { maxLength: 4 }
)

describe("the address of a client", () => {
  it("W6 whatever a client writes, it is known by the address that the first trusted proxy saw", () => {
    const written = fc.array(
      fc.oneof(fc.string(), strangers, fc.constantFrom("127.0.0.1", "10.0.0.1", "unknown", "")),
      { maxLength: 5 }
    )
    fc.assert(
      fc.property(written, strangers, proxies, (written, client, proxies) => {
        const chain = [...written, client, ...proxies].join(", ")
        assert.strictEqual(behind("10.0.0.9", xff(chain)), client)
        const quoted = [
          ...written,
          ...[client, ...proxies].map((each) =>
            `by=me;for="${
              each.includes(":") && !each.startsWith("[") && each.split(":").length > 2 ? `[${each}]` : each
            }"`
          )
        ]
        // an open quote of the client's swallows what follows, which is then none of its own addresses
        if (!written.some((each) => each.includes("\"") || each.includes("\\"))) {
          assert.strictEqual(forwarded("10.0.0.9", { forwarded: quoted.join(", ") }), client)
        }
      }),
      { numRuns: 500 }
    )
  })

  it("W6 a client that comes by itself is believed nothing", () => {
    fc.assert(fc.property(strangers, fc.string(), (client, header) => {
      assert.strictEqual(behind(client, { ...xff(header), forwarded: header }), client)
      assert.strictEqual(ClientAddress.make()("10.0.0.9", xff(client)), "10.0.0.9")
    }))
  })

  it("W6 a header that these proxies do not write is not read", () => {
    assert.strictEqual(behind("10.0.0.9", { forwarded: "for=203.0.113.1" }), "10.0.0.9")
    assert.strictEqual(forwarded("10.0.0.9", xff("203.0.113.1")), "10.0.0.9")
  })

  it("W6 what a proxy wrote that is no address ends the chain at that proxy", () => {
    for (
      const wrong of [
        "",
        "unknown",
        "_hidden",
        "203.0.113.256",
        "203.0.113",
        "0203.0.113.1",
        "1.2.3.4.5",
        ":::",
        "g::1",
        "[203.0.113.1]",
        "203.0.113.1:http",
        "1:2:3:4:5:6:7:8:9",
        "1::2::3",
        "1.2.3.4::"
      ]
    ) {
      assert.strictEqual(behind("10.0.0.9", xff(`203.0.113.7, ${wrong}, 10.0.0.3`)), "10.0.0.3", wrong)
    }
    assert.strictEqual(behind("10.0.0.9", xff("10.0.0.4, 10.0.0.3")), "10.0.0.4")
    assert.isUndefined(behind(undefined, xff("203.0.113.7")))
    assert.isUndefined(behind("a socket", xff("203.0.113.7")))
  })

  it("W6 each address has one form", () => {
    for (
      const [written, form] of [
        ["::ffff:203.0.113.1", "203.0.113.1"],
        ["::FFFF:cb00:7101", "203.0.113.1"],
        ["2001:0DB8:0:0:0:0:0:1", "2001:db8::1"],
        ["[2001:db8::1]:443", "2001:db8::1"],
        ["2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"],
        ["2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"],
        ["fe80::1%eth0", "fe80::1"],
        ["::", "::"]
      ] as const
    ) {
      assert.strictEqual(behind(written, {}), form)
    }
    fc.assert(fc.property(fc.ipV6(), (address) => {
      const form = behind(address, {})
      assert.isAbove(isIP(form ?? ""), 0)
      assert.strictEqual(behind(form, {}), form)
    }))
    fc.assert(fc.property(fc.ipV4(), (address) => assert.strictEqual(behind(address, {}), address)))
  })

  it("W6 blocks end where they say", () => {
    const narrow = ClientAddress.make({ trusted: ["10.128.0.0/9", "2001:db8:8000::/33"] })
    const client = xff("203.0.113.1")
    assert.strictEqual(narrow("10.127.255.255", client), "10.127.255.255")
    assert.strictEqual(narrow("10.128.0.0", client), "203.0.113.1")
    assert.strictEqual(narrow("10.255.255.255", client), "203.0.113.1")
    assert.strictEqual(narrow("11.128.0.0", client), "11.128.0.0")
    assert.strictEqual(narrow("2001:db8:7fff::1", client), "2001:db8:7fff::1")
    assert.strictEqual(narrow("2001:db8:8000::1", client), "203.0.113.1")
    assert.strictEqual(ClientAddress.make({ trusted: ["0.0.0.0/0"] })("2001:db8::1", client), "2001:db8::1")
    for (const wrong of ["", "10.0.0.0/33", "::/129", "proxy", "10.0.0.0/8/8", "10.0.0.0/a"]) {
      assert.throws(() => ClientAddress.make({ trusted: [wrong] }), RangeError, "ClientAddress: trusted")
    }
  })

  it("W6 a proxy on a unix socket is believed where it is trusted, and no other connection is for it", () => {
    const local = ClientAddress.make({ trusted: ["unix", "10.0.0.0/8"] })
    assert.strictEqual(local(undefined, xff("203.0.113.7")), "203.0.113.7")
    assert.strictEqual(local("", xff("198.51.100.1, 203.0.113.7, 10.0.0.3")), "203.0.113.7")
    assert.isUndefined(local(undefined, {}))
    assert.isUndefined(local(undefined, xff("nonsense")))
    assert.strictEqual(local("198.51.100.4", xff("203.0.113.7")), "198.51.100.4")
  })

  it("W6 a header made to be slow is read in one pass", () => {
    for (const part of ["for=a b", " ", "for=", ";", ",", "\\", "\"", "for=\"\\", "[", "1."]) {
      for (const  of of[forwarded, behind]) {
        const text = `for=a${part.repeat(Math.ceil(1_000_000 / part.length))}b`
        // quadratic work would take minutes, which no test has
        assert.strictEqual(of("10.0.0.1", { forwarded: text, ...xff(text) }), "10.0.0.1")
      }
    }
  })

  it("W6 one network of IPv6 is one caller, and each address of IPv4 is", () => {
    fc.assert(fc.property(fc.ipV6(), fc.ipV6(), fc.integer({ min: 1, max: 128 }), (one, other, bits) => {
      const bitsOf = (address: string) => ClientAddress.network(address, bits)
      const [a, b] = [behind(one, {}) ?? "", behind(other, {}) ?? ""]
      assert.strictEqual(bitsOf(a), bitsOf(a))
      if (a !== b && bits === 128) assert.notStrictEqual(bitsOf(a), bitsOf(b))
    }))
    for (
      const [address, bits, network] of [
        ["2001:db8:1:2:3:4:5:6", 64, "2001:db8:1:2::/64"],
        ["2001:db8:1:2ff:3:4:5:6", 56, "2001:db8:1:200::/56"],
        ["2001:db8:1:ffff::", 49, "2001:db8:1:8000::/49"],
        ["2001:db8::1", 128, "2001:db8::1"],
        ["203.0.113.9", 64, "203.0.113.9"],
        ["unknown", 64, "unknown"]
      ] as const
    ) {
      assert.strictEqual(ClientAddress.network(address, bits), network)
    }
  })
})
