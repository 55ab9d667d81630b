package pagetest_test

import (
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"claudepool/infra/testkit/need"
	"claudepool/pool/pooltest"
)

const talker = "sk-ant-oat01-who-talks"

// newTalk starts a service with the real CLI whose users may approve what tools do, and opens the page there.
func newTalk(t *testing.T, on screen) *tab {
	t.Helper()
	cli, err := pooltest.RealCLI()
	service := startService(t, need.Part(t, cli, err), "ISOLATION=off", "PERMISSION_MODE=acceptEdits")
	b := open(t, newBrowser(t), on, "http://"+service+"/")
	b.giveToken(talker)
	b.shows("#list-about", "There are none yet.")
	return b
}

// says types a message, and sends it.
func (b *tab) says(text string) {
	b.t.Helper()
	b.do(chromedp.Focus(chromedp.CSS("#text")), chromedp.KeyEvent(text), chromedp.Click(chromedp.CSS("#send")))
}

// opens chooses a conversation of the list.
func (b *tab) opens(title string) {
	b.t.Helper()
	require.True(b.t, evaluate[bool](b, `[...document.querySelectorAll("#list button")].some((e) => `+
		`e.firstChild.textContent === "`+title+`" && (e.click(), true))`))
}

// lists waits until there are so many conversations in the list.
func (b *tab) lists(n int) {
	b.t.Helper()
	require.Eventually(b.t, func() bool { return evaluate[int](b, "document.querySelectorAll('#list li').length") == n },
		patience, 20*time.Millisecond)
}

func (b *tab) press(selector string) {
	b.t.Helper()
	b.shows(selector, "")
	b.do(chromedp.Click(chromedp.CSS(selector)))
}

func TestTalk_TalksApprovesAnswersAndStops(t *testing.T) {
	t.Parallel()
	b := newTalk(t, desktop)
	b.do(chromedp.KeyEvent("hello\r")) // the field has the focus
	b.shows(".message.assistant", "reply to: hello")
	b.shows("#status", "Done in")
	b.shows("#list", "hello")

	b.says(`[[tool=Bash {"command":"mkdir made && echo it is made"}]]`)
	b.shows(".ask .question", "May Bash run?")
	b.shows("#status", "Your answer is needed")
	b.do(chromedp.KeyEvent("\r")) // meant for something else
	require.Empty(t, b.text(".ask[data-answered]"))
	b.do(chromedp.KeyEvent("\t\t")) // what it gets, and then
	require.Equal(t, "Allow", evaluate[string](b, "document.activeElement.textContent"))
	b.do(chromedp.KeyEvent("\r"))
	b.shows(".ask[data-answered]", "You allowed it.")
	b.shows(".message.assistant:last-of-type", "tool said: it is made")
	b.shows(".tool .state", "done")

	b.says(`[[tool=Bash {"command":"mkdir other"}]]`)
	b.shows(".ask:not([data-answered])", "mkdir other")
	b.do(chromedp.Focus(chromedp.CSS(".ask:not([data-answered]) .why input")), chromedp.KeyEvent("use another name"),
		chromedp.Click(chromedp.CSS(".ask:not([data-answered]) .deny")))
	b.shows(".message.assistant:last-of-type", "tool said: use another name")

	b.says(`[[tool=AskUserQuestion {"questions":[{"question":"Which colour?","header":"Colour","multiSelect":false,` +
		`"options":[{"label":"Blue","description":"like the sky"},{"label":"Red","description":"like <b>fire</b>"}]}]}]]`)
	b.shows(".ask .option", "like <b>fire</b>")
	b.do(chromedp.Click(chromedp.CSS(".ask .option input[value=Blue]")),
		chromedp.Click(chromedp.CSS(".ask .main:not(.allow)")))
	b.shows(".message.assistant:last-of-type", `"Which colour?"="Blue"`)

	b.says("on and on [[words=500]] [[delay=200ms]]")
	b.shows(".message.assistant:last-of-type", "w3")
	b.press("#stop")
	b.shows(".note", "Stopped.")
	b.says("and now?")
	b.shows(".message.assistant:last-of-type", "reply to: and now?")

	require.NotContains(t, evaluate[string](b, "location.href + document.cookie + JSON.stringify({...localStorage}) + "+
		"JSON.stringify({...sessionStorage}) + document.documentElement.outerHTML + token.value"), talker)
	b.requireNoComplaints()
}

func TestTalk_ConversationsAreListedForkedAndDeleted(t *testing.T) {
	t.Parallel()
	b := newTalk(t, desktop)
	b.says("one")
	b.shows(".message.assistant", "reply to: one")
	b.press("#fresh") // the turn may not have ended, and goes on
	require.Empty(t, b.text("#log"))
	b.says("two")
	b.shows(".message.assistant", "reply to: two")
	b.shows("#list", "one")
	b.shows("#list", "two")
	b.opens("one")
	b.shows("#title", "one")
	b.shows(".message.assistant", "reply to: one")
	b.press("#fork")
	b.shows(".note", "A fork")
	b.says("three")
	b.shows(".message.assistant:last-of-type", "reply to: three")
	b.shows("#status", "Done in")
	b.lists(3)
	b.press("#delete")
	b.shows("#delete", "Delete for good?")
	b.press("#delete")
	b.shows("#empty", "Say something")
	b.lists(2)

	b.press("#leave")
	b.shows("#access", "Token or API key")
	require.Empty(t, b.text("#list, #log"))
	require.Empty(t, evaluate[string](b, "document.querySelector('#list').textContent"))
	b.requireNoComplaints()
}

func TestTalk_WhoComesBackToARunningTurnSeesItGoOnAndApproves(t *testing.T) {
	t.Parallel()
	b := newTalk(t, desktop)
	b.says("one")
	b.shows("#status", "Done in")
	b.press("#fresh")
	b.says("two")
	b.shows("#status", "Done in")
	b.lists(2)
	b.says(`[[say=so far]] [[2:latency=1s]] [[1:latency=4s]] [[tool=Bash {"command":"mkdir made && echo it is made"}]]`)
	b.shows("#status", "Claude is at work")
	b.opens("one")
	b.shows(".message.assistant", "reply to: one")
	b.opens("two")
	b.shows("#stop", "Stop")
	b.shows(".message.user:last-of-type", "mkdir made")
	b.shows(".ask .question", "May Bash run?")
	b.shows("#status", "Your answer is needed")
	b.press(".allow")
	b.shows(".ask[data-answered]", "You allowed it.")
	b.shows(".message.assistant:last-of-type", "tool said: it is made")
	b.shows("#status", "Done in")
	require.Equal(t, 1, evaluate[int](b, "document.querySelectorAll('.tool').length"), "nothing is there twice")
	b.requireNoComplaints()
}

func TestTalk_WorksInWhateverPermissionModeTheServiceHas(t *testing.T) {
	t.Parallel()
	cli, err := pooltest.ScriptedCLI()
	require.NoError(t, err)
	browser := newBrowser(t)
	for _, mode := range []string{"plan", "default", "dontAsk", "acceptEdits", "bypassPermissions"} {
		service := startService(t, cli, "ISOLATION=off", "PERMISSION_MODE="+mode)
		b := open(t, browser, desktop, "http://"+service+"/")
		b.giveToken(talker)
		b.shows("#list-about", "There are none yet.")
		for _, text := range []string{"hello", "and again"} {
			b.says(text)
			b.shows(".message.assistant:last-of-type", "reply to: "+text)
			b.shows("#status", "Done in")
		}
		notes := b.text(".note")
		require.Equal(t, mode == "plan", notes != "", "%s: %s", mode, notes)
		require.LessOrEqual(t, strings.Count(notes, "its own permission mode is in force"), 1, "it is said once")
		b.requireNoComplaints()
	}
}

func TestTalk_WhatIsRefusedIsInTheTextFieldAgain(t *testing.T) {
	t.Parallel()
	cli, err := pooltest.ScriptedCLI()
	require.NoError(t, err)
	service := startService(t, cli, "ISOLATION=off", "RATE_LIMIT_USER=2/h")
	b := open(t, newBrowser(t), desktop, "http://"+service+"/")
	b.giveToken(talker)
	written := func() string { return evaluate[string](b, "document.querySelector('#text').value") }
	b.shows("#list-about", "There are none yet.")
	b.says("hello")
	b.shows("#status", "Done in")
	b.says("a long message")
	b.shows("#send", "Send")
	require.Eventually(t, func() bool { return written() == "a long message" }, patience, 20*time.Millisecond)
	b.shows(".note.bad", "more than 2 requests")
	require.NotContains(t, b.text(".message.user"), "long", "or it would be there twice when it is sent again")

	b.do(chromedp.Evaluate[chromedp.Void](`void (globalThis.fetch = async () => ` +
		`new Response('{"error":{"message":"who are you?"}}', {status: 401}))`))
	b.press("#send")
	b.shows("#refusal", "who are you?")
	require.Equal(t, "a long message", written())
	b.requireNoComplaints()
}

func TestTalk_EscapeStopsOnlyWhereItIsMeantTo(t *testing.T) {
	t.Parallel()
	b := newTalk(t, desktop)
	escape := func(on, more string) {
		b.do(chromedp.Evaluate[chromedp.Void](`void document.querySelector("` + on + `").dispatchEvent(` +
			`new KeyboardEvent("keydown", {key: "Escape", bubbles: true` + more + `}))`))
	}
	b.says(`[[1:latency=1s]] [[tool=Bash {"command":"mkdir made && echo it is made"}]]`)
	escape("body", "")
	escape("#model", "")
	escape("#text", ", isComposing: true")
	escape("#text", ", keyCode: 229")
	b.shows(".ask .question", "May Bash run?")
	escape("#text", "")
	escape("#stop", "")
	b.press(".allow")
	b.shows(".message.assistant:last-of-type", "tool said: it is made")
	b.shows("#status", "Done in")
	for i, on := range []string{"#text", "#stop"} {
		b.says("on and on [[words=500]] [[delay=200ms]]")
		b.shows(".message.assistant:last-of-type", "w1")
		escape(on, "")
		b.shows("#send", "Send")
		require.Equal(t, i+1, strings.Count(b.text(".note"), "Stopped."))
	}
	b.requireNoComplaints()
}

func TestTalk_NothingOfWhatAToolGetsIsAllowedUnseen(t *testing.T) {
	t.Parallel()
	b := newTalk(t, desktop)
	b.says(`[[tool=Bash {"command":"mkdir made && echo it is made","description":"Make it","timeout":5000,` +
		`"dangerouslyDisableSandbox":true}]]`)
	b.shows(".ask .gets", "mkdir made")
	for _, line := range []string{"description: Make it", "timeout: 5000", "dangerouslyDisableSandbox: true"} {
		b.shows(".ask .gets", line)
	}
	b.press(".allow")
	b.shows(".message.assistant:last-of-type", "tool said: it is made")
	b.shows("#status", "Done in")

	// What is typed for a test is its keys, one by one.
	b.do(chromedp.Evaluate[chromedp.Void](`void (document.querySelector("#text").value = '[[tool=Bash {"command":` +
		`"mkdir other; true ' + "x".repeat(20000) + ' && echo the end of it"}]]')`))
	b.press("#send")
	b.shows(".ask .gets", "more characters")
	require.NotContains(t, b.text(".ask .gets"), "the end of it")
	require.Empty(t, b.text(".allow, .always"))
	b.press(".unfold")
	b.shows(".ask .gets", "the end of it")
	require.Equal(t, "PRE", evaluate[string](b, "document.activeElement.tagName"), "the focus is on no button")
	b.press(".allow")
	b.shows(".message.assistant:last-of-type", "tool said: the end of it")
	b.requireNoComplaints()
}

func TestTalk_TheToolsOwnNameIsSeenBesideTheOneItsServerGivesIt(t *testing.T) {
	t.Parallel()
	b := open(t, newBrowser(t), desktop, newExample(t)+"/")
	b.do(chromedp.Evaluate[chromedp.Void](`void import("./talk/asks.js").then((asks) => ` +
		`document.querySelector("#access").append(` +
		`asks.ask({tool_name: "mcp__evil__wipe", display_name: "Read", input: {}}, null)))`))
	b.shows("#access .question", "May mcp__evil__wipe (“Read”) run?")
	b.requireNoComplaints()
}

func TestTalk_FitsPhonesAndDesktops(t *testing.T) {
	t.Parallel()
	b := open(t, newBrowser(t), phone, newExample(t)+"/")
	b.shows("#access", "Token or API key")
	for _, on := range []screen{phone, desktop, {width: 320, height: 600, scale: 1, isPhone: true, colours: "light"}} {
		b.look(on)
		b.requireFits()
	}
	b.look(phone)
	asks(t, b)
	for _, on := range []screen{desktop, {width: 320, height: 600, scale: 1, isPhone: true, colours: "light"}, phone} {
		b.look(on)
		b.requireFits()
	}
	require.Empty(t, b.text("#side"))
	b.press("#open-list")
	b.shows("#list", "A letter to the landlord")
	require.Equal(t, "true", evaluate[string](b, "document.querySelector('#open-list').ariaExpanded"))
	b.requireFits()
	unnamed := evaluate[[]string](b, `[...document.querySelectorAll("input, select, textarea, button")].filter((e) => `+
		`!e.textContent.trim() && !e.labels?.length && !e.ariaLabel).map((e) => e.outerHTML)`)
	require.Empty(t, unnamed, "whoever can't see them has to know what they are")
	b.requireNoComplaints()
}
