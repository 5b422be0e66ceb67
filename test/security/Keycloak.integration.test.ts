/**
 * Keycloak as the issuer of tokens. It runs where the environment asks for it, as the first start downloads 176 MB and takes minutes:
 * `MILLRACE_KEYCLOAK=yes pnpm test Keycloak`. What a server of keys may do to a verifier is in JwksServer.test.ts, which runs everywhere.
 */
import { Auth } from "@millrace/core"
import { type Request, Server } from "@millrace/http"
import * as Listener from "@millrace/http/Listener"
import { Jwt } from "@millrace/security"
import { Keycloak } from "@millrace/testing/servers"
import { assert, it } from "@effect/vitest"
import { Context, type Duration, Effect, Exit, Layer, References, Scope } from "effect"
import { FetchHttpClient } from "effect/http"
import * as jose from "jose"
import { createServer } from "node:http"
import { type AddressInfo, connect, createServer as createProxy } from "node:net"
import { setTimeout as sleep } from "node:timers/promises"
import { afterEach, describe } from "vitest"
import { call } from "../http/support.ts"
import { describeServer } from "../services/describe.ts"

const mapper = (name: string, config: object) => ({
  name,
  protocol: "openid-connect",
  protocolMapper: "oidc-audience-mapper",
  config: { ...config, "access.token.claim": "true", "id.token.claim": "false" }
})

const client = (clientId: string, protocolMappers: ReadonlyArray<object>) => ({
  clientId,
  secret: `${clientId}-secret`,
  publicClient: false,
  serviceAccountsEnabled: true,
  standardFlowEnabled: false,
  directAccessGrantsEnabled: true,
  protocolMappers
})

const ofRealm = (realm: string) => ({
  realm,
  enabled: true,
  accessTokenLifespan: 3600,
  roles: { realm: [{ name: "orders:write" }] },
  clients: [
    // two audiences beside Keycloak's own, so that `aud` is a list
    client("shop", [
      mapper("orders", { "included.custom.audience": "orders" }),
      mapper("stock", { "included.custom.audience": "stock" })
    ]),
    client("single", [mapper("orders", { "included.custom.audience": "orders" })]),
    client("stranger", [])
  ],
  users: [{
    username: "ada",
    enabled: true,
    email: "ada@example.org",
    emailVerified: true,
    firstName: "Ada",
    lastName: "Test",
    realmRoles: ["orders:write"],
    credentials: [{ type: "password", value: "ada-password", temporary: false }]
  }]
})

const form = (fields: Record<string, string>): RequestInit => ({ method: "POST", body: new URLSearchParams(fields) })

interface Tokens {
  readonly access_token: string
  readonly id_token?: string
  readonly refresh_token?: string
}

/** Makes a realm with a key of its own, and what the tests do as its administrator and as its clients. */
const makeRealm = async ({ admin, url }: Keycloak.KeycloakServer) => {
  const realm = `orders-${crypto.randomUUID().slice(0, 8)}`
  const tokens = async (realm: string, fields: Record<string, string>): Promise<Tokens> => {
    const response = await fetch(`${url}/realms/${realm}/protocol/openid-connect/token`, form(fields))
    if (!response.ok) throw new Error(await response.text())
    // of our own realm
    return await response.json() as Tokens
  }
  const ask = async (method: string, path: string, body?: object): Promise<Response> => {
    // it is good for a minute
    const { access_token } = await tokens("master", { grant_type: "password", client_id: "admin-cli", ...admin })
    const response = await fetch(`${url}/admin/realms${path}`, {
      method,
      headers: { authorization: `Bearer ${access_token}`, "content-type": "application/json" },
      body: body === undefined ? null : JSON.stringify(body)
    })
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`)
    return response
  }
  await ask("POST", "", ofRealm(realm))
  const json = async (path: string): Promise<unknown> => (await ask("GET", path)).json()
  return {
    issuer: `${url}/realms/${realm}`,
    /** A token of a client for itself. */
    token: async (id: string): Promise<string> =>
      (await tokens(realm, { grant_type: "client_credentials", client_id: id, client_secret: `${id}-secret` }))
        .access_token,
    /** The tokens of a user, by a client. */
    signIn: (id: string): Promise<Tokens> =>
      tokens(realm, {
        grant_type: "password",
        client_id: id,
        client_secret: `${id}-secret`,
        username: "ada",
        password: "ada-password",
        scope: "openid"
      }),
    /** Begins to sign with a new key; the old one stays in the set. */
    rotate: async (): Promise<void> => {
      const { id } = await json(`/${realm}`) as { readonly id: string }
      await ask("POST", `/${realm}/components`, {
        name: "next",
        providerId: "rsa-generated",
        providerType: "org.keycloak.keys.KeyProvider",
        parentId: id,
        config: { priority: ["200"], enabled: ["true"], active: ["true"], algorithm: ["RS256"], keySize: ["2048"] }
      })
    },
    /** Takes the first key out of the set. */
    retire: async (): Promise<void> => {
      const found = await json(`/${realm}/components?type=org.keycloak.keys.KeyProvider`) as ReadonlyArray<
        { readonly id: string; readonly name: string; readonly providerId: string }
      >
      for (const { id, name, providerId } of found) {
        if (providerId === "rsa-generated" && name !== "next") await ask("DELETE", `/${realm}/components/${id}`)
      }
    }
  }
}

/** Counts the connections to Keycloak: a verifier makes one for each reading, as `fetch` is told to keep none. */
const counted = async ({ url }: Keycloak.KeycloakServer, scope: Scope.Closeable) => {
  const { hostname, port } = new URL(url)
  const seen = { readings: 0, open: 0, most: 0 }
  const server = createProxy((socket) => {
    const upstream = connect(Number(port), hostname)
    socket.pipe(upstream)
    upstream.pipe(socket)
    socket.on("data", (chunk) => {
      if (!chunk.toString("latin1").startsWith("GET ")) return
      seen.readings += 1
      seen.open += 1
      seen.most = Math.max(seen.most, seen.open)
      socket.once("close", () => seen.open -= 1)
    })
    for (const [one, other] of [[socket, upstream], [upstream, socket]] as const) {
      one.on("error", () => {})
      one.once("close", () => other.destroy())
    }
  })
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
  await Effect.runPromise(Scope.addFinalizer(scope, Effect.sync(() => void server.close())))
  return { seen, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` }
}

const closing: RequestInit = { headers: { connection: "close" } }

/** A service behind a verifier whose times are short enough to be waited for. */
const service = async (
  keycloak: Keycloak.KeycloakServer,
  { issuer }: { readonly issuer: string },
  scope: Scope.Closeable,
  options: Partial<Jwt.Options> = {},
  { keep, refresh, timeout }: Record<"keep" | "refresh" | "timeout", Duration.Input> = {
    keep: "10 minutes",
    refresh: "10 minutes",
    timeout: "1 second"
  }
) => {
  const { seen, url } = await counted(keycloak, scope)
  const verifier = Jwt.layer({
    keys: {
      url: `${url}${new URL(issuer).pathname}/protocol/openid-connect/certs`,
      refresh,
      cooldown: "1 second",
      timeout,
      keep
    },
    algorithms: ["RS256"],
    issuer,
    audience: "orders",
    cache: { capacity: 1 },
    ...options
  }).pipe(Layer.provide(FetchHttpClient.layer), Layer.provide(Layer.succeed(FetchHttpClient.RequestInit, closing)))
  const whoami = Auth.middleware()((_request: Request) =>
    Effect.map(Auth.Principal, ({ scopes, subject }) => ({ scopes, subject }))
  )
  const built = await Effect.runPromise(
    Layer.build(
      Listener.layer(createServer, [Server.route("GET", "/", whoami)], { port: 0, host: "127.0.0.1" }).pipe(
        Layer.provide(verifier)
      )
    ).pipe(Scope.provide(scope), Effect.provideService(References.MinimumLogLevel, "None"))
  )
  const base = `http://127.0.0.1:${Context.get(built, Listener.Address).port}`
  const ask = (token: string) => call(base, "/", { headers: { authorization: `Bearer ${token}` } })
  return { seen, ask, status: async (token: string) => (await ask(token)).status }
}

const eventually = async (within: number, look: () => Promise<boolean>) => {
  const end = Date.now() + within
  while (!(await look())) {
    assert.isBelow(Date.now(), end, "not within the time")
    await sleep(100)
  }
}

/** How often each status came. */
const counts = (statuses: ReadonlyArray<number>): Record<number, number> => {
  const found: Record<number, number> = {}
  for (const status of statuses) found[status] = (found[status] ?? 0) + 1
  return found
}

const { privateKey } = await jose.generateKeyPair("RS256")

/** A token by a key that the issuer does not have, with a key id of its own. */
const stranger = (issuer: string): Promise<string> =>
  new jose.SignJWT({ sub: "eve" }).setProtectedHeader({ alg: "RS256", kid: crypto.randomUUID() })
    .setIssuer(issuer).setAudience("orders").setExpirationTime("1h").sign(privateKey)

describe("Keycloak as issuer", { timeout: 180_000 }, () => {
  let scope = Scope.makeUnsafe()
  afterEach(async () => {
    await Effect.runPromise(Scope.close(scope, Exit.void))
    scope = Scope.makeUnsafe()
  })

  describeServer("Keycloak", Keycloak.own(), (server) => {
    it("F8 keys rotate while tokens arrive: none is refused as long as its key is in the set", async () => {
      const issuer = await makeRealm(server())
      const { ask, seen, status } = await service(server(), issuer, scope)
      const old = await issuer.token("shop")
      await eventually(20_000, async () => await status(old) === 200)
      await sleep(1_100)
      const before: Array<number> = []
      const after: Array<number> = []
      let isRotated = false
      let isOver = false
      const clients = Array.from({ length: 4 }, async () => {
        while (!isOver) {
          const fresh = await issuer.token("shop")
          ;(isRotated ? after : before).push(await status(fresh), await status(old))
        }
      })
      await sleep(1_000)
      await issuer.rotate()
      isRotated = true
      await sleep(3_000)
      isOver = true
      await Promise.all(clients)
      const fresh = await issuer.token("shop")
      assert.notStrictEqual(jose.decodeProtectedHeader(fresh).kid, jose.decodeProtectedHeader(old).kid)
      assert.deepStrictEqual([Object.keys(counts(before)), Object.keys(counts(after))], [["200"], ["200"]])
      // the first reading, and one for the new key
      assert.strictEqual(seen.readings, 2)
      await issuer.retire()
      // nothing asks for a reading: what is known holds until the next one
      assert.strictEqual(await status(old), 200)
      await sleep(1_100)
      await status(await stranger(issuer.issuer))
      const refused = await ask(old)
      assert.deepStrictEqual([refused.status, await status(fresh)], [401, 200])
      assert.include(refused.headers["www-authenticate"], "invalid_token")
      console.log("rotation", { before: counts(before), after: counts(after), readings: seen.readings })
    })

    it("F8 H18 invented key ids cause one reading, and keep no token away", async () => {
      const issuer = await makeRealm(server())
      const { seen, status } = await service(server(), issuer, scope)
      const good = await issuer.token("shop")
      await eventually(20_000, async () => await status(good) === 200)
      await sleep(1_100)
      const { readings } = seen
      const invented = await Promise.all(Array.from({ length: 50 }, () => stranger(issuer.issuer)))
      const [strangers, known] = await Promise.all([
        Promise.all(invented.map(status)),
        Promise.all(invented.map(() => status(good)))
      ])
      assert.deepStrictEqual([counts(strangers), counts(known)], [{ 401: 50 }, { 200: 50 }])
      assert.strictEqual(seen.readings, readings + 1)
    })

    it("F8 the process is stopped: known keys serve, one reading at a time is tried, nothing piles up", async () => {
      const issuer = await makeRealm(server())
      const { ask, seen, status } = await service(server(), issuer, scope)
      const good = await issuer.token("shop")
      await eventually(20_000, async () => await status(good) === 200)
      await sleep(1_100)
      const pid = await Effect.runPromise(server().pid)
      process.kill(pid!, "SIGSTOP")
      try {
        const { readings } = seen
        const invented = await Promise.all(Array.from({ length: 50 }, () => stranger(issuer.issuer)))
        const began = performance.now()
        const strangers = Promise.all(invented.map(status))
        const known = await Promise.all(invented.map(() => status(good)))
        assert.deepStrictEqual(counts(known), { 200: 50 })
        assert.deepStrictEqual(counts(await strangers), { 401: 50 })
        console.log("slow, keys known", {
          ms: Math.round(performance.now() - began),
          readings: seen.readings - readings
        })
        assert.deepStrictEqual([seen.readings - readings, seen.most], [1, 1])

        // a verifier that has no keys yet
        const second = await service(server(), issuer, scope)
        const first = await Promise.all(invented.map(() => second.ask(good)))
        assert.deepStrictEqual(counts(first.map(({ status }) => status)), { 503: 50 })
        assert.isDefined(first[0]!.headers["retry-after"])
        assert.isAtMost(second.seen.most, 1)
        process.kill(pid!, "SIGCONT")
        await eventually(20_000, async () => await second.status(good) === 200)
        assert.strictEqual((await ask(good)).status, 200)
      } finally {
        process.kill(pid!, "SIGCONT")
      }
    })

    it("F8 the process is killed: keys serve for their life, then requests are 503 and never 401, until it is back", async () => {
      const issuer = await makeRealm(server())
      const { ask, status } = await service(server(), issuer, scope, {}, {
        keep: "8 seconds",
        refresh: "1 second",
        timeout: "5 seconds"
      })
      const good = await issuer.token("shop")
      await eventually(20_000, async () => await status(good) === 200)
      await Effect.runPromise(server().kill)
      assert.strictEqual(await status(good), 200)
      const seen: Array<number> = []
      let last = await ask(good)
      const began = performance.now()
      while (last.status === 200 && performance.now() - began < 80_000) {
        seen.push(last.status)
        await sleep(200)
        last = await ask(good)
      }
      const lived = performance.now() - began
      assert.deepStrictEqual([Object.keys(counts(seen)), last.status], [["200"], 503])
      assert.isDefined(last.headers["retry-after"])
      assert.include(last.json()["failure"], "dependency")
      assert.strictEqual(await status(await stranger(issuer.issuer)), 503)
      await Effect.runPromise(server().restart)
      await eventually(60_000, async () => await status(good) === 200)
      console.log("killed", { keysServedMs: Math.round(lived) })
    })

    it("F8 audiences, the authorized party, roles and other tokens of Keycloak", async () => {
      const issuer = await makeRealm(server())
      const roles = (claims: jose.JWTPayload): ReadonlyArray<string> => {
        const access = claims["realm_access"] as { readonly roles?: ReadonlyArray<string> } | undefined
        return access?.roles ?? []
      }
      const { ask, status } = await service(server(), issuer, scope, { scopes: roles })
      const user = await issuer.signIn("shop")
      await eventually(20_000, async () => await status(user.access_token) === 200)
      const audiences = new Map<string, unknown>()
      for (const id of ["shop", "single", "stranger"]) {
        const token = await issuer.token(id)
        const { aud, azp } = jose.decodeJwt(token)
        assert.strictEqual(azp, id)
        audiences.set(id, aud)
        assert.strictEqual(await status(token), id === "stranger" ? 401 : 200, id)
      }
      console.log("audiences", Object.fromEntries(audiences))
      assert.isArray(audiences.get("shop"))
      const answer = (await ask(user.access_token)).json() as { readonly scopes: ReadonlyArray<string> }
      assert.include(answer.scopes, "orders:write")
      // a refresh token is signed by a secret of Keycloak's, an id token is for the client
      assert.deepStrictEqual(
        [await status(user.refresh_token!), await status(user.id_token!)],
        [401, 401]
      )
      // of an API with the client's name as its audience, only the claim `typ` tells the two apart
      const open = await service(server(), issuer, scope, { audience: "shop" })
      const strict = await service(server(), issuer, scope, {
        audience: ["shop", "orders"],
        isRevoked: ({ claims }) => claims["typ"] !== "Bearer"
      })
      await eventually(20_000, async () => await open.status(user.id_token!) === 200)
      await eventually(20_000, async () => await strict.status(user.access_token) === 200)
      assert.strictEqual(await strict.status(user.id_token!), 401)
    })
  })
})
