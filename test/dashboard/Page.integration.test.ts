import { assert, describe, it } from "@effect/vitest"
import { Audit } from "@millrace/core"
import { Effect } from "effect"
import { existsSync, mkdirSync } from "node:fs"
import { type BrowserContextOptions, chromium, type Page } from "playwright-core"
import { publish, start, state, tokens } from "./support.ts"

/** A folder for screenshots, which people look at: they are compared with nothing. */
const shots = process.env["MILLRACE_SCREENSHOTS"]

const executable = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync)

const newPage = (options: BrowserContextOptions = {}) =>
  Effect.acquireRelease(
    Effect.promise(() => {
      if (executable === undefined) throw new Error("The page's tests need Chromium: apt-get install chromium")
      return chromium.launch({ executablePath: executable, args: ["--no-sandbox"] })
    }),
    (browser) => Effect.promise(() => browser.close())
  ).pipe(
    Effect.flatMap((browser) => Effect.promise(async () => (await browser.newContext(options)).newPage()))
  )

const shot = async (page: Page, name: string) => {
  if (shots === undefined) return
  mkdirSync(shots, { recursive: true })
  await page.screenshot({ path: `${shots}/${name}.png`, fullPage: true })
}

const logIn = async (page: Page, url: string, token: string) => {
  await page.goto(`${url}/monitor`)
  await page.getByLabel("Access token").fill(token)
  await page.keyboard.press("Enter")
}

const bodies = ["{\"id\":1,\"token\":\"swordfish\"}", "{\"id\":2}"]

describe("the dashboard in Chromium", { timeout: 60_000 }, () => {
  it.live("H16 a person logs in, reads dead letters, replays one and discards one", () =>
    Effect.gen(function*() {
      const { context, url } = yield* start()
      yield* publish(context, ...bodies)
      const page = yield* newPage()
      const errors: Array<string> = []
      const foreign: Array<string> = []
      const files = new Map<string, number>()
      page.on("pageerror", (error) => errors.push(error.message))
      page.on("console", (message) => {
        // of the requests before the login
        if (message.type() === "error" && !message.text().includes("401")) errors.push(message.text())
      })
      page.on("request", (request) => {
        if (!/^(?:data:|http:\/\/127\.0\.0\.1:)/.test(request.url())) foreign.push(request.url())
      })
      page.on("response", (response) => {
        const path = new URL(response.url()).pathname
        if (/^\/monitor(?:\/\w+\.(?:js|css))?$/.test(path)) {
          void response.body().then((body) => files.set(path, body.length))
        }
      })
      yield* Effect.promise(async () => {
        await logIn(page, url, "no token")
        await page.getByText("The server refused the token.").waitFor()
        await page.getByLabel("Access token").fill(tokens.write)
        await page.getByRole("button", { name: "Log in" }).click()
        await page.getByText(": 2 open, 0 replayed, 0 discarded").waitFor()
        assert.isTrue(await page.getByLabel("Access token").isHidden())
        await page.getByText("2 × SoldOut").click()
        await page.getByText("position 0").click()
        assert.notInclude(await page.content(), "swordfish")
        assert.include(await page.content(), "&lt;img src=x")
        assert.strictEqual(await page.title(), "Orders & more")
        await page.getByRole("cell", { name: "billing" }).first().waitFor()
        await page.locator("#trend canvas").waitFor()
        assert.match(await page.locator("#trend").getAttribute("aria-label") ?? "", /^Errors in the last 24 hours: \d/)
        await shot(page, "light")
        // one is replayed
        state.isBroken = false
        await page.getByRole("button", { name: "Replay this one" }).click()
        await page.getByRole("button", { name: "Continue" }).click()
        await page.getByText(": 1 open, 1 replayed, 0 discarded").waitFor()
        assert.deepStrictEqual(state.handled, [bodies[0]])
        // one is discarded, which needs a reason; the group is still open
        await page.getByText("position 1").click()
        await page.getByRole("button", { name: "Discard this one" }).click()
        await page.getByRole("button", { name: "Cancel" }).click()
        await page.getByRole("button", { name: "Discard this one" }).click()
        await page.getByRole("button", { name: "Continue" }).click()
        assert.isTrue(await page.getByLabel("Reason").isVisible())
        await page.getByLabel("Reason").fill("a test order")
        await page.keyboard.press("Enter")
        await page.getByText(": 0 open, 1 replayed, 1 discarded").waitFor()
      })
      const { rows } = yield* Effect.provideContext(Effect.flatMap(Audit.Store, (store) => store.query()), context)
      assert.deepStrictEqual(rows.map(({ handler, key }) => [handler, key]), [
        ["dashboard.discard", "grace"],
        ["dashboard.replay", "grace"]
      ])
      assert.deepStrictEqual(errors, [])
      assert.deepStrictEqual(foreign, [])
      assert.deepStrictEqual([...files.keys()].sort(), [
        "/monitor",
        "/monitor/page.css",
        "/monitor/page.js",
        "/monitor/plot.js"
      ])
      assert.isBelow([...files.values()].reduce((sum, each) => sum + each, 0), 100_000)
    }).pipe(Effect.scoped))

  it.live("H16 the page is readable on a phone in the dark, and says when the server is gone", () =>
    Effect.gen(function*() {
      const { context, url } = yield* start()
      yield* publish(context, ...bodies)
      const page = yield* newPage({ viewport: { width: 390, height: 844 }, colorScheme: "dark" })
      yield* Effect.promise(async () => {
        await logIn(page, url, tokens.read)
        await page.getByText(": 2 open, 0 replayed, 0 discarded").waitFor()
        await page.locator("#trend canvas").waitFor()
        // tables scroll by themselves; the page does not
        assert.isAtMost(await page.evaluate<number>("document.documentElement.scrollWidth"), 390)
        assert.notStrictEqual(
          await page.evaluate<string>("getComputedStyle(document.body).backgroundColor"),
          "rgb(255, 255, 255)"
        )
        await page.getByText("2 × SoldOut").click()
        await shot(page, "dark-phone")
        // by keyboard alone: past the header, into the letters
        await page.getByRole("link", { name: "Skip to the content" }).focus()
        for (const name of ["Dead letters", "Subscriptions", "Errors", "Alerts", "Channels", "Health"]) {
          await page.keyboard.press("Tab")
          assert.strictEqual(await page.evaluate<string>("document.activeElement.textContent"), name)
        }
        await page.keyboard.press("Tab")
        assert.match(await page.evaluate<string>("document.activeElement.textContent"), /^2 × SoldOut/)
        await page.keyboard.press("Enter")
        await page.getByRole("button", { name: "Replay 2" }).waitFor({ state: "hidden" })
        await page.route("**/monitor/events", (route) => route.abort())
        await page.getByText("The server does not answer").waitFor({ timeout: 30_000 })
      })
    }).pipe(Effect.scoped))
})
